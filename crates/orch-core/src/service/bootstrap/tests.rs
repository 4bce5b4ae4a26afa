//! What a start makes of an empty store, and of one that was used before.

use super::*;
use crate::service::argon::is_password;

#[test]
fn the_hashes_of_the_demo_are_of_its_passwords() {
    assert!(is_password("admin", DEMO_ADMIN_HASH));
    assert!(is_password("demo", DEMO_HASH));
    assert!(!is_password("", NO_PASSWORD));
}

mod users {
    use orch_domain::port::PortRange;

    use super::*;

    fn book() -> Book {
        Book::new(PortRange::DEFAULT)
    }

    fn start(book: &mut Book, users: Users, fresh: Option<(String, ApiKey)>) {
        let now = Timestamp::ZERO;
        book.transaction(|book| {
            set_admin(book, &admin_id(), now, users, fresh)?;
            set_demo(book, now, users == Users::Demo)
        })
        .unwrap();
    }

    fn hash_of(book: &Book, id: &str) -> Option<String> {
        book.user(&UserId::try_new(id).unwrap()).map(|it| it.password_hash.clone())
    }

    #[test]
    fn what_a_demo_left_is_of_no_use_to_anybody_afterwards() {
        let mut book = book();
        start(&mut book, Users::Demo, None);
        assert_eq!(hash_of(&book, ADMIN_ID).unwrap(), DEMO_ADMIN_HASH);
        assert_eq!(hash_of(&book, DEMO_ID).unwrap(), DEMO_HASH);
        start(&mut book, Users::Local, None);
        assert_eq!(hash_of(&book, ADMIN_ID).unwrap(), NO_PASSWORD);
        assert_eq!(hash_of(&book, DEMO_ID).unwrap(), NO_PASSWORD);
        start(&mut book, Users::Demo, None);
        assert_eq!(hash_of(&book, DEMO_ID).unwrap(), DEMO_HASH);
    }

    #[test]
    fn a_demo_leaves_a_real_password_alone() {
        let mut book = book();
        let fresh = Fresh::make(1, Timestamp::ZERO).unwrap();
        let hash = fresh.hash.clone();
        start(&mut book, Users::Administrator, Some((fresh.hash, fresh.key)));
        start(&mut book, Users::Demo, None);
        assert_eq!(hash_of(&book, ADMIN_ID).unwrap(), hash);
        assert_eq!(book.api_keys().count(), 1);
    }
}
