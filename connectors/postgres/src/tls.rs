//! Encryption as `sslmode` asks for it, through rustls.
//!
//! | `sslmode` | encrypted | the server is checked against |
//! |---|---|---|
//! | `disable` | no | – |
//! | `allow`, `prefer` | if the server can | nothing |
//! | `require` | yes | nothing; the authority, if `sslrootcert` is given |
//! | `verify-ca` | yes | the authority |
//! | `verify-full` | yes | the authority and the host name |
//!
//! The authority is `sslrootcert`, else `~/.postgresql/root.crt`, else the certificates that the
//! operating system trusts (`sslrootcert=system` asks for these).

use std::path::PathBuf;
use std::sync::Arc;

use highwater_core::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How far the server is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsLevel {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What the connection parameters say about encryption.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub level: TlsLevel,
    pub root: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Makes the connector for `settings`.
///
/// # Errors
/// `Config` when a certificate or key cannot be read, or no authority is known.
pub(crate) fn connector(settings: &TlsSettings) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal("TLS cannot be set up").caused_by(e))?;
    let verifier: Arc<dyn ServerCertVerifier> = match settings.level {
        TlsLevel::Disable | TlsLevel::Prefer | TlsLevel::Require => {
            Arc::new(Lenient { authority: None, provider })
        }
        TlsLevel::VerifyCa => {
            let authority = Some(authority(settings, Arc::clone(&provider))?);
            Arc::new(Lenient { authority, provider })
        }
        TlsLevel::VerifyFull => authority(settings, provider)?,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| file_error("The private key cannot be read", key).caused_by(e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                file_error("The client certificate is of no use", certificate).caused_by(e)
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn file_error(message: &str, path: &std::path::Path) -> Error {
    Error::config(message).context("file", path.display())
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| file_error("A certificate cannot be read", path).caused_by(e))
}

fn authority(
    settings: &TlsSettings,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    match &settings.root {
        Some(path) if path.as_os_str() != "system" => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| {
                    file_error("A root certificate is of no use", path).caused_by(e)
                })?;
            }
        }
        _ => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| {
        Error::config("No certificate authority is known to check the server with")
            .hint("set `sslrootcert=/path/to/ca.crt` in the connection string")
            .caused_by(e)
    })
}

/// Checks less than the web does, as libpq's weaker modes ask: without an authority nothing but
/// the handshake's own signature, with one everything but the host name.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            // The name is looked at last, after chain and dates.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
