//! A throw-away certificate authority and a server certificate for this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Writes `authority.crt`, `server.crt` and `server.key` into `folder`.
pub(super) fn write_certificates(folder: &Path) {
    const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=highwater test authority"];
    let files = ["-keyout", "authority.key", "-out", "authority.crt"];
    openssl(folder, &[&authority[..], &KEY, &files].concat());

    let request = ["req", "-subj", "/CN=localhost"];
    let files = ["-keyout", "server.key", "-out", "server.csr"];
    openssl(folder, &[&request[..], &KEY, &files].concat());

    // A leaf, not an authority: TLS clients refuse an authority as a server.
    let extensions = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
    fs::write(folder.join("server.ext"), extensions).expect("the folder is writable");
    #[rustfmt::skip]
    openssl(folder, &[
        "x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "authority.crt",
        "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "server.ext",
        "-out", "server.crt",
    ]);
    // The server refuses a key that others can read.
    let only_owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.join("server.key"), only_owner).expect("our own file");
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    let Ok(output) = output else {
        panic!(
            "this test needs the `openssl` program; install it with\n    apt-get install -y openssl"
        );
    };
    assert!(
        output.status.success(),
        "openssl {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
