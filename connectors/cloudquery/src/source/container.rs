//! Where this machine is for a plugin in a container.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The name of this machine inside a container.
const HERE: &str = "host.docker.internal";
/// How long the engine may take to answer.
const ENGINE_ANSWER: Duration = Duration::from_secs(10);

/// The address on which a container can reach us. On Linux that is this machine's end of the
/// engine's own network, which nobody outside of this machine sees; the loopback is another one
/// inside the container. Where the engine runs in a virtual machine, it forwards to our loopback.
pub(super) async fn address(docker: &Path) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let gateway = async {
        let output = Command::new(docker)
            .args(["network", "inspect", "bridge", "--format"])
            .arg("{{(index .IPAM.Config 0).Gateway}}")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(ENGINE_ANSWER, output).await.ok()?.ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse::<IpAddr>().ok()
    };
    let Some(gateway) = gateway.await else { return loopback };
    // Only an address of this machine can be listened on.
    match tokio::net::TcpListener::bind((gateway, 0)).await {
        Ok(_) => gateway,
        Err(_) => loopback,
    }
}

/// `connection`, an address of this machine, as the container knows it.
pub(super) fn seen_from_inside(connection: &str, own: Option<IpAddr>) -> String {
    let is_here = |host: &str| {
        ["127.0.0.1", "localhost", "0.0.0.0"].contains(&host)
            || own.is_some_and(|own| own.to_string() == host)
    };
    match connection.rsplit_once(':') {
        Some((host, port)) if is_here(host) => format!("{HERE}:{port}"),
        _ => connection.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_has_another_name_inside() {
        let own = Some(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)));
        for (outside, inside) in [
            ("127.0.0.1:5", "host.docker.internal:5"),
            ("localhost:5", "host.docker.internal:5"),
            ("0.0.0.0:5", "host.docker.internal:5"),
            ("172.17.0.1:5", "host.docker.internal:5"),
            ("172.17.0.9:5", "172.17.0.9:5"),
            ("unix:///a", "unix:///a"),
        ] {
            assert_eq!(seen_from_inside(outside, own), inside);
        }
    }
}
