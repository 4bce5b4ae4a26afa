//! Users and API keys in the book.

use std::sync::Arc;

use super::Book;
use super::change::Undo;
use crate::Error;
use crate::name::{ApiKeyId, UserId, UserName};
use crate::user::{ApiKey, User};

pub fn no_user(id: &UserId) -> Error {
    Error::NotFound {
        kind: "user",
        id: id.to_string(),
        hint: "`list_users` shows those there are".to_owned(),
    }
}

impl Book {
    /// By id, or by name: people know names. An id goes before a name that is written the same.
    pub fn user_called(&self, id_or_name: &UserId) -> Result<&Arc<User>, Error> {
        let named = || self.users.values().find(|it| it.name.as_str() == id_or_name.as_str());
        self.users.get(id_or_name).or_else(named).ok_or_else(|| no_user(id_or_name))
    }

    pub fn user_named(&self, name: &UserName) -> Option<&Arc<User>> {
        self.users.values().find(|it| it.name == *name)
    }

    pub fn add_user(&mut self, user: User) -> Result<(), Error> {
        if self.users.contains_key(&user.id) || self.user_named(&user.name).is_some() {
            return Err(Error::conflict(format!(
                "there is already a user `{}`; choose another name",
                user.name
            )));
        }
        self.put_user(user);
        Ok(())
    }

    pub fn change_user(
        &mut self,
        id: &UserId,
        change: impl FnOnce(&mut User),
    ) -> Result<Arc<User>, Error> {
        let mut user = (**self.users.get(id).ok_or_else(|| no_user(id))?).clone();
        change(&mut user);
        self.put_user(user);
        self.keep_an_admin(id)?;
        Ok(self.users[id].clone())
    }

    /// Refused while the user holds instances; takes its API keys along.
    pub fn remove_user(&mut self, id: &UserId) -> Result<(), Error> {
        let held = self.usage(id).instances;
        if !self.users.contains_key(id) {
            return Err(no_user(id));
        }
        if held != 0 {
            return Err(Error::conflict(format!(
                "user `{id}` still has {held} instances; terminate them first"
            )));
        }
        let keys: Vec<ApiKeyId> =
            self.api_keys.values().filter(|it| it.user == *id).map(|it| it.id.clone()).collect();
        for key in keys {
            self.remove_api_key(&key)?;
        }
        self.remove_grants_of(id);
        let old = self.users.remove(id);
        self.journal.push(Undo::User(id.clone(), old));
        self.keep_an_admin(id)
    }

    pub fn add_api_key(&mut self, key: ApiKey) -> Result<(), Error> {
        if !self.users.contains_key(&key.user) {
            return Err(no_user(&key.user));
        }
        self.put_api_key(key);
        Ok(())
    }

    pub fn remove_api_key(&mut self, id: &ApiKeyId) -> Result<Arc<ApiKey>, Error> {
        let Some(old) = self.api_keys.remove(id) else {
            let hint = "`list_api_keys` shows those there are".to_owned();
            return Err(Error::NotFound { kind: "API key", id: id.to_string(), hint });
        };
        self.journal.push(Undo::ApiKey(id.clone(), Some(old.clone())));
        Ok(old)
    }

    /// Without an administrator nobody could ever make one again.
    fn keep_an_admin(&self, changed: &UserId) -> Result<(), Error> {
        let is_admin = |it: &Arc<User>| it.permissions.contains(&crate::caller::Permission::Admin);
        if self.users.values().any(is_admin) {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "`{changed}` is the last administrator; give another user `admin` first"
        )))
    }

    pub(super) fn put_user(&mut self, user: User) {
        let id = user.id.clone();
        let old = self.users.insert(id.clone(), Arc::new(user));
        self.journal.push(Undo::User(id, old));
    }

    pub(super) fn put_api_key(&mut self, key: ApiKey) {
        let id = key.id.clone();
        let old = self.api_keys.insert(id.clone(), Arc::new(key));
        self.journal.push(Undo::ApiKey(id, old));
    }
}
