#[test]
fn make() {
    use argon2::Argon2;
    use argon2::password_hash::{PasswordHasher, SaltString};
    for p in ["admin", "demo"] {
        let salt = SaltString::encode_b64(b"mcp-orch--demo--").unwrap();
        println!("{}", Argon2::default().hash_password(p.as_bytes(), &salt).unwrap());
    }
}
