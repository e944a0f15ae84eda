//! TLS towards servers that this one calls: webhooks and aggregated servers are verified, pods behind a proxy are not.
//!
//! What never lives here: the listener's side, and a connection.

use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
#[error("unable to load root certificates: {0}")]
pub struct ConfigError(String);

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ConfigError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError(e.to_string()))
}

/// With what this server proves itself to those whom it calls.
#[derive(Debug)]
pub struct Own {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Own {
    /// # Errors
    /// A text, when one of the two is no certificate chain or key in PEM.
    pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        Ok(Self { chain: chain.map_err(|e| e.to_string())?, key: key.map_err(|e| e.to_string())? })
    }
}

/// How one server is recognised, and how this one shows itself to it.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Certificates in PEM; empty: those of the host.
    pub bundle: Vec<u8>,
    /// Whatever certificate the server shows is believed.
    pub insecure: bool,
    pub own: Option<Arc<Own>>,
}

impl Trust {
    /// A configuration that speaks HTTP/1.1.
    ///
    /// As with upstream's TLS library, a certificate that is itself one of the bundle is good: many webhooks sign their own.
    ///
    /// # Errors
    /// The bundle holds no certificate, or key and certificate of our own do not belong together.
    pub fn config(&self) -> Result<Arc<ClientConfig>, ConfigError> {
        let builder = if self.insecure {
            builder()?.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        } else if self.bundle.is_empty() {
            builder()?.with_root_certificates(host_roots())
        } else {
            let roots: Vec<_> = CertificateDer::pem_slice_iter(&self.bundle).filter_map(Result::ok).collect();
            builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Pinned::new(roots)?))
        };
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(|e| ConfigError(e.to_string()))?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificates that the host trusts, read once, when the first webhook needs them.
fn host_roots() -> Arc<RootCertStore> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    ROOTS.clone()
}

/// Believes whatever certificate the server shows, but not that another than its owner shows it.
pub fn unverified() -> Result<Arc<ClientConfig>, ConfigError> {
    Trust { insecure: true, ..Trust::default() }.config()
}

/// A bundle of certificates, each of which may sign the server's or be it.
#[derive(Debug)]
struct Pinned {
    roots: Vec<CertificateDer<'static>>,
    /// `None` when no certificate in the bundle can sign another.
    chains: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, ConfigError> {
        if roots.is_empty() {
            return Err(ConfigError("no certificate in the bundle".into()));
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let provider = provider();
        let chains = (!store.is_empty())
            .then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build())
            .transpose()
            .map_err(|e| ConfigError(e.to_string()))?;
        Ok(Self { roots, chains, provider })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            in_time(end_entity, now)?;
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate is valid at that time.
fn in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| rustls::Error::from(rustls::CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < parsed.validity().not_before.timestamp() {
        return Err(rustls::CertificateError::NotValidYet.into());
    }
    if seconds > parsed.validity().not_after.timestamp() {
        return Err(rustls::CertificateError::Expired.into());
    }
    Ok(())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
