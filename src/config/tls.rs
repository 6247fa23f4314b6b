//! Certificates and keys in files, read where a configuration is checked and again for each connection.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

/// Where the certificates of a source's connections are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    pub client: Option<ClientCertificate>,
}

/// Who we are to a server that wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What was found in the files.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub authorities: Vec<X509>,
    pub client: Option<Identity>,
}

#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: X509,
    /// Those between it and the authority, as they follow it in its file.
    pub chain: Vec<X509>,
    pub key: PKey<Private>,
}

/// What is wrong with one of the files. Its text shows nothing of what is in it.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsFlaw {
    /// The key below `tls`.
    pub key: &'static str,
    pub problem: String,
}

impl fmt::Display for TlsFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`tls.{}`: {}", self.key, self.problem)
    }
}

impl TlsSettings {
    /// Reads the files as they are now. It never asks at a terminal.
    ///
    /// # Errors
    /// When one is missing, does not hold what it should, or the key is not that of the certificate.
    pub fn read(&self) -> Result<Certificates, TlsFlaw> {
        let authorities = self.ca.as_deref().map(|ca| certificates(ca, "ca")).transpose()?.unwrap_or_default();
        let client = self.client.as_ref().map(ClientCertificate::read).transpose()?;
        Ok(Certificates { authorities, client })
    }
}

impl ClientCertificate {
    fn read(&self) -> Result<Identity, TlsFlaw> {
        let mut chain = certificates(&self.certificate, "certificate")?.into_iter();
        let key = private_key(&self.key)?;
        let certificate = chain.next().ok_or_else(|| no_certificate(&self.certificate, "certificate"))?;
        let belongs = certificate.public_key().is_ok_and(|public| public.public_eq(&key));
        if !belongs {
            let certificate = self.certificate.display();
            let problem = format!("{} is not the key of the certificate in {certificate}", self.key.display());
            return Err(TlsFlaw { key: "key", problem });
        }
        Ok(Identity { certificate, chain: chain.collect(), key })
    }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsFlaw> {
    fs::read(path).map_err(|error| TlsFlaw { key, problem: format!("{} cannot be read: {error}", path.display()) })
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<X509>, TlsFlaw> {
    let pem = read(path, key)?;
    match X509::stack_from_pem(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(no_certificate(path, key)),
    }
}

fn no_certificate(path: &Path, key: &'static str) -> TlsFlaw {
    let problem = format!("{} holds no certificate; expected PEM, \"-----BEGIN CERTIFICATE-----\"", path.display());
    TlsFlaw { key, problem }
}

fn private_key(path: &Path) -> Result<PKey<Private>, TlsFlaw> {
    let pem = read(path, "key")?;
    let mut is_encrypted = false;
    let parsed = PKey::private_key_from_pem_callback(&pem, |_| {
        // Without this the library would ask for the password at the terminal.
        is_encrypted = true;
        Ok(0)
    });
    let flaw = |problem: String| TlsFlaw { key: "key", problem };
    if is_encrypted {
        return Err(flaw(format!(
            "{} is encrypted, and there is nobody to ask for its password; give the key unencrypted, in a file that \
             only the worker may read",
            path.display()
        )));
    }
    parsed.map_err(|_| {
        flaw(format!("{} holds no private key; expected PEM, \"-----BEGIN PRIVATE KEY-----\"", path.display()))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::symm::Cipher;
    use openssl::x509::{X509Builder, X509NameBuilder};
    use tempfile::TempDir;

    use super::*;

    /// A certificate signed by itself, and its key, both as PEM.
    pub fn pair() -> (Vec<u8>, PKey<Private>) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "test").unwrap();
        let name = name.build();
        let mut builder = X509Builder::new().unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        (builder.build().to_pem().unwrap(), key)
    }

    fn settings(folder: &TempDir) -> TlsSettings {
        let path = |name: &str| folder.path().join(name);
        TlsSettings {
            ca: Some(path("ca.pem")),
            client: Some(ClientCertificate { certificate: path("client.pem"), key: path("client.key") }),
        }
    }

    #[test]
    fn files_are_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (certificate, key) = pair();
            write("ca.pem", &certificate.repeat(2));
            write("client.pem", &certificate.repeat(3));
            write("client.key", &key.private_key_to_pem_pkcs8().unwrap());
            let read = settings.read().unwrap();
            let identity = read.client.unwrap();
            assert_eq!((read.authorities.len(), identity.chain.len()), (2, 2));
            seen.push(identity.certificate.to_pem().unwrap());
        }
        assert_ne!(seen[0], seen[1]);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_key_and_never_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let flaw = || settings.read().err().unwrap().to_string();
        let (certificate, key) = pair();
        assert!(flaw().starts_with("`tls.ca`") && flaw().contains("ca.pem cannot be read"), "{}", flaw());
        write("ca.pem", b"nothing");
        assert!(flaw().contains("ca.pem holds no certificate"), "{}", flaw());
        write("ca.pem", &certificate);
        write("client.pem", &key.private_key_to_pem_pkcs8().unwrap());
        assert!(flaw().starts_with("`tls.certificate`") && flaw().contains("holds no certificate"), "{}", flaw());
        write("client.pem", &certificate);
        write("client.key", &certificate);
        assert!(flaw().starts_with("`tls.key`") && flaw().contains("holds no private key"), "{}", flaw());
        for passphrase in ["hush", ""] {
            let pem = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), passphrase.as_bytes()).unwrap();
            write("client.key", &pem);
            assert!(flaw().contains("is encrypted"), "{}", flaw());
        }
        write("client.key", &pair().1.private_key_to_pem_pkcs8().unwrap());
        assert!(flaw().contains("is not the key of the certificate"), "{}", flaw());
        write("client.key", &key.private_key_to_pem_pkcs8().unwrap());
        assert!(settings.read().is_ok());
    }
}
