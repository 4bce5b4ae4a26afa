//! Passwords as argon2id hashes, in memory that goes back to the system.

use argon2::password_hash::{Output, ParamsString, PasswordHash, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use orch_domain::Error;

/// Allocators keep freed blocks of up to 32 MiB for later, and each thread its own: after a few logins that would be
/// most of what this process holds. Longer ones are mapped, and gone when freed; what is not touched costs nothing.
const MAPPED: usize = (33 << 20) / Block::SIZE;

/// PHC string of argon2id with its default cost. Blocks for tens of milliseconds.
pub fn hash_password(password: &str) -> Result<String, Error> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(Error::internal)?;
    let salt = SaltString::encode_b64(&salt).map_err(Error::internal)?;
    let params = Params::default();
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(Error::internal)?,
        salt: Some(salt.as_salt()),
        hash: Some(output(password, salt.as_salt(), params).map_err(Error::internal)?),
    };
    Ok(hash.to_string())
}

/// A hash that is malformed, or of another kind than ours, matches nothing.
pub(super) fn is_password(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    let is_ours = hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into());
    match (Params::try_from(&hash), hash.salt, hash.hash) {
        // Outputs compare in constant time.
        (Ok(params), Some(salt), Some(expected)) if is_ours => {
            output(password, salt, params).is_ok_and(|it| it == expected)
        }
        _ => false,
    }
}

fn output(password: &str, salt: Salt<'_>, params: Params) -> argon2::password_hash::Result<Output> {
    let mut bytes = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut bytes)?;
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let mut memory: Vec<Block> = Vec::with_capacity(MAPPED.max(params.block_count()));
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Output::init_with(length, |out| {
        Ok(argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, &mut memory)?)
    })
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher, PasswordVerifier};

    use super::*;

    #[test]
    fn hashes_are_what_the_library_makes() {
        let hash = hash_password("secret").unwrap();
        let parsed = PasswordHash::new(&hash).unwrap();
        assert!(Argon2::default().verify_password(b"secret", &parsed).is_ok(), "{hash}");
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let theirs = Argon2::default().hash_password(b"secret", &salt).unwrap().to_string();
        assert!(is_password("secret", &theirs) && !is_password("Secret", &theirs));
        for bad in ["", "x", "$argon2id$v=19$m=19456,t=2,p=1", &theirs.replace("2id", "2i")] {
            assert!(!is_password("secret", bad), "{bad}");
        }
    }
}
