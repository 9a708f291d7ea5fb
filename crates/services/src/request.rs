//! What every call carries beside its message: the namespace, and perhaps a lease.

use orlop_types::{LeaseId, Namespace};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::status;

/// The header that names the caller's namespace (`pkg/namespaces` of containerd).
const NAMESPACE_HEADER: &str = "containerd-namespace";

/// The header that names the lease everything made by the call is bound to (`pkg/leases` of containerd).
const LEASE_HEADER: &str = "containerd-lease";

/// On whose behalf a call is made.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Every record that the call touches is in here.
    pub(crate) namespace: Namespace,
    /// What the call makes is held by it.
    pub(crate) lease: Option<LeaseId>,
}

/// Splits a request into its caller and its message.
///
/// # Errors
/// The namespace is missing (`FAILED_PRECONDITION`, as containerd answers), or a header is no valid id.
pub(crate) fn open<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let caller = caller(request.metadata())?;
    Ok((caller, request.into_inner()))
}

/// Reads the caller from the headers alone.
///
/// # Errors
/// As [`open`].
pub(crate) fn caller(headers: &MetadataMap) -> Result<Caller, Status> {
    let namespace = header(headers, NAMESPACE_HEADER)?
        .ok_or_else(|| status::failed_precondition("namespace is required"))?;
    Ok(Caller {
        namespace: Namespace::new(namespace).map_err(|error| status::invalid(&error))?,
        lease: header(headers, LEASE_HEADER)?
            .map(LeaseId::new)
            .transpose()
            .map_err(|error| status::invalid(&error))?,
    })
}

/// The text of a header; empty counts as absent, as containerd's clients mean it.
fn header<'a>(headers: &'a MetadataMap, name: &'static str) -> Result<Option<&'a str>, Status> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| status::invalid_text(format!("header {name} is not plain ASCII")))?;
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn namespace_and_lease_come_from_the_headers() {
        let map = headers(&[(NAMESPACE_HEADER, "k8s.io"), (LEASE_HEADER, "pull 1")]);
        let caller = caller(&map).unwrap();
        assert_eq!(caller.namespace.as_str(), "k8s.io");
        assert_eq!(caller.lease.unwrap().as_str(), "pull 1");
    }

    #[test]
    fn an_absent_or_empty_lease_is_none() {
        for map in [
            headers(&[(NAMESPACE_HEADER, "a")]),
            headers(&[(NAMESPACE_HEADER, "a"), (LEASE_HEADER, "")]),
        ] {
            assert!(caller(&map).unwrap().lease.is_none());
        }
    }

    #[test]
    fn a_missing_namespace_is_a_failed_precondition_and_a_bad_one_invalid() {
        assert_eq!(
            caller(&headers(&[])).unwrap_err().code(),
            Code::FailedPrecondition
        );
        let bad = headers(&[(NAMESPACE_HEADER, "../a")]);
        assert_eq!(caller(&bad).unwrap_err().code(), Code::InvalidArgument);
    }
}
