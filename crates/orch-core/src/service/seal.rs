//! Encryption of what is stored and must be read back. It keeps a password out of sight of whoever looks at a row, a dump
//! or a log; it does not keep it from whoever has the whole data directory, which holds the key as well.

use orch_domain::Error;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

pub(crate) struct Seal(LessSafeKey);

/// Each has a key of its own, so that nothing sealed for one opens for another.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    RegistryCredentials,
    Grants,
}

impl Purpose {
    fn words(self) -> &'static [u8] {
        match self {
            Purpose::RegistryCredentials => b"registry credentials 1",
            Purpose::Grants => b"server grants 1",
        }
    }
}

impl Seal {
    /// `secret` signs tokens too, so the key is one derived from it for this purpose alone.
    pub(crate) fn new(secret: &[u8; 32], purpose: Purpose) -> Seal {
        let derived = Salt::new(HKDF_SHA256, b"mcp-orch seal").extract(secret);
        let key = derived
            .expand(&[purpose.words()], &CHACHA20_POLY1305)
            .map(UnboundKey::from)
            .expect("a key is much shorter than the most that can be derived");
        Seal(LessSafeKey::new(key))
    }

    /// What comes out opens only with the same `about`, so that it cannot be moved to another record.
    pub(crate) fn seal(&self, about: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut sealed = vec![0; NONCE_LEN];
        getrandom::fill(&mut sealed).map_err(Error::internal)?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed).expect("it has that length");
        let mut text = plain.to_vec();
        self.0
            .seal_in_place_append_tag(nonce, Aad::from(about), &mut text)
            .map_err(|_| Error::internal("the text is too long to be encrypted"))?;
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// None: it was sealed with another secret or about something else, or was changed.
    pub(crate) fn open(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        self.0.open_in_place(nonce, Aad::from(about), &mut text).ok().map(|it| it.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_about_the_same_opens_it() {
        let seal = Seal::new(&[7; 32], Purpose::Grants);
        let sealed = seal.seal("ghcr.io", b"hunter22").unwrap();
        assert_eq!(seal.open("ghcr.io", &sealed).unwrap(), b"hunter22");
        assert!(!sealed.windows(8).any(|it| it == b"hunter22"));
        assert_ne!(seal.seal("ghcr.io", b"hunter22").unwrap(), sealed, "each has its own nonce");
        assert_eq!(seal.open("docker.io", &sealed), None);
        assert_eq!(Seal::new(&[8; 32], Purpose::Grants).open("ghcr.io", &sealed), None);
        let other = Seal::new(&[7; 32], Purpose::RegistryCredentials);
        assert_eq!(other.open("ghcr.io", &sealed), None);
        for n in [0, NONCE_LEN, sealed.len() - 1] {
            assert_eq!(seal.open("ghcr.io", &sealed[..n]), None);
        }
        let mut changed = sealed;
        changed[NONCE_LEN] ^= 1;
        assert_eq!(seal.open("ghcr.io", &changed), None);
    }
}
