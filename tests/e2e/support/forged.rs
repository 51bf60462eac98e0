//! Keys that are well-formed to the last character of their checksum, and no good.

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Where a key's secret ends and its checksum begins.
const SECRET_END: usize = 41;

/// A key whose id nobody has; another one for each number.
pub fn nobodys(number: u32) -> String {
    sealed(&format!("tg_{}{}", "7".repeat(12), secret(number)))
}

/// Somebody's key id with another secret; another one for each number.
pub fn with_another_secret(key: &str, number: u32) -> String {
    let forged = sealed(&format!("{}{}", &key[..15], secret(number)));
    assert_ne!(forged, key);
    forged
}

/// A key for a test to put into the store: its id and its text.
pub fn planted(number: u32) -> (String, String) {
    let id = format!("3{}{}", "0".repeat(4), base32(number));
    let text = sealed(&format!("tg_{id}{}", secret(number)));
    (id, text)
}

/// The same for keys that share the secret of this one. In the store their ids are 3·2⁵⁵ and the
/// number.
pub fn planted_like(key: &str, number: u32) -> String {
    let (id, _) = planted(number);
    sealed(&format!("tg_{id}{}", &key[15..SECRET_END]))
}

fn secret(number: u32) -> String {
    "5".repeat(19) + &base32(number)
}

fn sealed(text: &str) -> String {
    assert_eq!(text.len(), SECRET_END);
    text.to_owned() + &base32(crc32c::crc32c(text.as_bytes()))
}

fn base32(mut number: u32) -> String {
    let mut digits = ['0'; 7];
    for place in digits.iter_mut().rev() {
        *place = char::from(BASE32[(number & 31) as usize]);
        number >>= 5;
    }
    digits.iter().collect()
}
