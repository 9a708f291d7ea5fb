//! `RuntimeConfig`: which cgroup driver the kubelet has to use too.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    cri: &Cri,
    _request: api::RuntimeConfigRequest,
) -> Result<api::RuntimeConfigResponse, Status> {
    let driver = if cri.parts().systemd_cgroups {
        api::CgroupDriver::Systemd
    } else {
        api::CgroupDriver::Cgroupfs
    };
    Ok(api::RuntimeConfigResponse {
        linux: Some(api::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}
