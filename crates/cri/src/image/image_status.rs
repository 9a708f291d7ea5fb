//! `ImageStatus`: one image, or an empty answer if it is not here.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use orlop_image::images::CatalogEntry;
use tonic::Status;

use super::message;
use crate::{Cri, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::ImageStatusRequest,
) -> Result<api::ImageStatusResponse, Status> {
    let text = message::name(request.image)?;
    let found = cri.images().find(&cri.scope(), &text).await;
    let Some(entry) = found.map_err(|error| status::of_image(&error))? else {
        return Ok(api::ImageStatusResponse::default());
    };
    let info = if request.verbose {
        info(cri, &entry).await?
    } else {
        BTreeMap::new()
    };
    Ok(api::ImageStatusResponse {
        image: Some(message::image(entry)),
        info,
    })
}

/// As containerd has it: JSON with `chainID` and `imageSpec` under the key `info`.
async fn info(cri: &Cri, entry: &CatalogEntry) -> Result<BTreeMap<String, String>, Status> {
    let name = entry
        .names
        .first()
        .cloned()
        .ok_or_else(|| status::not_found(format!("image {}", entry.id)))?;
    let details = cri.images().config_of(&cri.scope(), name, None).await;
    let details = details.map_err(|error| status::of_image(&error))?;
    let value = serde_json::json!({
        "chainID": entry.chain_id.map(|chain| chain.to_string()).unwrap_or_default(),
        "manifest": entry.manifest.digest.to_string(),
        "names": entry.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "imageSpec": details.config,
    });
    Ok(BTreeMap::from([("info".to_owned(), value.to_string())]))
}
