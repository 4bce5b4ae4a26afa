//! Grants of servers behind in the book.

use std::sync::Arc;

use super::Book;
use super::change::Undo;
use crate::grant::{Grant, GrantKey};
use crate::name::UserId;

impl Book {
    pub fn grant(&self, key: &GrantKey) -> Option<&Arc<Grant>> {
        self.grants.get(key)
    }

    /// What one holder has for a server, by issuer. None: the gateway itself.
    pub fn grants_at<'a>(
        &'a self,
        server: &'a str,
        user: Option<&'a UserId>,
    ) -> impl Iterator<Item = &'a Arc<Grant>> {
        let first =
            GrantKey { server: server.to_owned(), user: user.cloned(), issuer: String::new() };
        let here = move |it: &(&GrantKey, _)| it.0.server == server && it.0.user.as_ref() == user;
        self.grants.range(first..).take_while(here).map(|(_, it)| it)
    }

    /// By server, holder and issuer.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.values()
    }

    /// In place of one that the holder has there. Of a user who is gone, nothing is kept: the answer is then false.
    pub fn put_grant(&mut self, grant: Grant) -> bool {
        if grant.key.user.as_ref().is_some_and(|it| !self.users.contains_key(it)) {
            return false;
        }
        let key = grant.key.clone();
        let old = self.grants.insert(key.clone(), Arc::new(grant));
        self.journal.push(Undo::Grant(key, old));
        true
    }

    pub fn remove_grant(&mut self, key: &GrantKey) -> Option<Arc<Grant>> {
        let old = self.grants.remove(key)?;
        self.journal.push(Undo::Grant(key.clone(), Some(old.clone())));
        Some(old)
    }

    /// With the user go all of its logins.
    pub(super) fn remove_grants_of(&mut self, user: &UserId) {
        let of_user = |it: &&GrantKey| it.user.as_ref() == Some(user);
        let keys: Vec<GrantKey> = self.grants.keys().filter(of_user).cloned().collect();
        keys.iter().for_each(|it| drop(self.remove_grant(it)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortRange;
    use crate::time::Timestamp;
    use crate::user::User;

    fn grant(server: &str, user: Option<&str>) -> Grant {
        let user = user.map(|it| UserId::try_new(it).unwrap());
        let key = GrantKey { server: server.to_owned(), user, issuer: "https://i".to_owned() };
        Grant { key, sealed: vec![1], logged_in_at: Timestamp::from_millis(0), refused: None }
    }

    #[test]
    fn each_holder_has_its_own_and_a_user_who_goes_takes_them_along() {
        let mut book = Book::new(PortRange::try_new(8000, 8009).unwrap());
        let (ann, bob) = (User::test("ann"), User::test("bob"));
        let id = ann.id.clone();
        book.add_user(ann).unwrap();
        book.add_user(bob).unwrap();
        for it in [
            grant("notes", Some("ann")),
            grant("notes", Some("bob")),
            grant("notes", None),
            grant("mail", Some("ann")),
        ] {
            assert!(book.put_grant(it));
        }
        let of = |book: &Book, server: &str, user: Option<&UserId>| {
            book.grants_at(server, user).map(|it| it.key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&book, "notes", Some(&id)), ["ann at https://i for notes"]);
        assert_eq!(of(&book, "notes", None), ["the gateway at https://i for notes"]);
        book.remove_user(&id).unwrap();
        assert_eq!(book.grants().count(), 2);
        assert!(!book.put_grant(grant("notes", Some("ann"))), "nothing is kept of who is gone");
        assert_eq!(of(&book, "notes", Some(&id)), [""; 0]);
    }
}
