//! `containerd.services.mounts.v1`: mounts that the daemon makes ahead of a task, for kinds that the kernel cannot make.
//!
//! The snapshots of this daemon are mounts that the kernel makes by itself, and there are no handlers for others. So there
//! is never an activation: containerd answers the same when nothing needs its help, and clients then go on with the
//! mounts they have.

use futures_util::stream::{self, Empty};
use orlop_api::containerd::services::mounts::v1 as api;
use orlop_api::containerd::services::mounts::v1::mounts_server::Mounts;
use orlop_types::filter::Filters;
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::translate::required;

/// Answers for the activations that there are: none.
#[derive(Debug)]
pub(crate) struct MountsService;

#[tonic::async_trait]
impl Mounts for MountsService {
    async fn activate(
        &self,
        request: Request<api::ActivateRequest>,
    ) -> Result<Response<api::ActivateResponse>, Status> {
        let (_, wanted) = request::open(request)?;
        check_name(&wanted.name)?;
        if wanted.mounts.is_empty() {
            return Err(status::missing("mounts"));
        }
        let kinds: Vec<&str> = wanted.mounts.iter().map(|it| it.r#type.as_str()).collect();
        Err(status::unimplemented(format!(
            "mounts of type {} are made by the kernel, or not at all",
            kinds.join(", ")
        )))
    }

    async fn deactivate(
        &self,
        request: Request<api::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, wanted) = request::open(request)?;
        Err(unknown(&wanted.name))
    }

    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let (_, wanted) = request::open(request)?;
        Err(unknown(&wanted.name))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let (_, wanted) = request::open(request)?;
        Err(unknown(&required(wanted.info, "info")?.name))
    }

    type ListStream = Empty<Result<api::ListMessage, Status>>;

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (_, wanted) = request::open(request)?;
        Filters::parse(&wanted.filters).map_err(|error| status::invalid(&error))?;
        Ok(Response::new(stream::empty()))
    }
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Err(status::missing("name"));
    }
    Ok(())
}

fn unknown(name: &str) -> Status {
    match check_name(name) {
        Ok(()) => status::not_found(format!("activation {name:?}")),
        Err(missing) => missing,
    }
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::types;
    use tonic::Code;

    use super::*;

    fn of<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        headers.insert("containerd-namespace", "a".parse().unwrap());
        request
    }

    #[tokio::test]
    async fn clients_are_told_to_make_their_mounts_themselves() {
        let mut wanted = api::ActivateRequest {
            name: "web".to_owned(),
            ..api::ActivateRequest::default()
        };
        let empty = MountsService.activate(of(wanted.clone())).await;
        assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);
        wanted.mounts = vec![types::Mount {
            r#type: "overlay".to_owned(),
            ..types::Mount::default()
        }];
        let refused = MountsService.activate(of(wanted)).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn there_is_no_activation() {
        for (name, code) in [("web", Code::NotFound), ("", Code::InvalidArgument)] {
            let name = name.to_owned();
            let info = MountsService.info(of(api::InfoRequest { name })).await;
            assert_eq!(info.unwrap_err().code(), code);
        }
        let all = MountsService.list(of(api::ListRequest::default())).await;
        assert!(all.is_ok());
        let filters = vec!["==".to_owned()];
        let bad = MountsService.list(of(api::ListRequest { filters })).await;
        assert_eq!(bad.map(drop).unwrap_err().code(), Code::InvalidArgument);
    }
}
