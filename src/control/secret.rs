//! Makes keys and checks their secrets. Only the Argon2id PHC string of a secret is ever kept.
//! Both take tens of milliseconds and of MB: never on the lease loop.

use crate::config::Keys;
use crate::wire::key_text;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use shard::message::KEY_TEXT_BYTES;
use shard::units::KeyId;

/// A new key's text and the hash to keep; the cause of a failure carries no secret.
pub(crate) fn make(id: KeyId, config: &Keys) -> Result<([u8; KEY_TEXT_BYTES], String), String> {
    let mut secret = [0u8; 16];
    getrandom::fill(&mut secret)
        .map_err(|error| format!("the host gave no randomness: {error}"))?;
    let text = key_text::compose(id.0, &secret);
    let hash = hash(&text, config)?;
    Ok((text, hash))
}

/// Does the key's secret match the hash?
pub(crate) fn matches(text: &[u8; KEY_TEXT_BYTES], secret_hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(secret_hash) else {
        tracing::error!("a key's hash in the store cannot be read");
        return false;
    };
    // The costs are those of the hash, whatever is configured now.
    Argon2::default().verify_password(&text[key_text::SECRET], &hash).is_ok()
}

fn hash(text: &[u8; KEY_TEXT_BYTES], config: &Keys) -> Result<String, String> {
    let params = Params::new(config.argon2_memory_kib, config.argon2_passes, 1, None)
        .map_err(|error| format!("[keys] argon2 settings: {error}"))?;
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|error| format!("the host gave no randomness: {error}"))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password_with_salt(&text[key_text::SECRET], &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| format!("Argon2: {error}"))
}
