//! Making users and changing their passwords, off the threads that answer calls.

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{UserId, UserName};
use orch_domain::password::Password;
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::{Quota, User};

use crate::Orch;

impl Orch {
    /// A user to add to the book. Whether the password is good enough is the caller's to say.
    pub async fn make_user(
        &self,
        id: UserId,
        name: UserName,
        password: &Password,
        permissions: Vec<Permission>,
        quota: Quota,
        tools: ToolPatterns,
    ) -> Result<User, Error> {
        let password_hash = self.hash(password).await?;
        let now = self.clock.now();
        Ok(User {
            id,
            name,
            password_hash,
            permissions,
            quota,
            created_at: now,
            tokens_valid_from: now,
            tools,
        })
    }

    /// The id of whom an argument means, which may name a user by id or by name.
    pub fn user_id(&self, id_or_name: &UserId) -> Result<UserId, Error> {
        self.ledger.read(|book| book.user_called(id_or_name).map(|it| it.id.clone()))
    }

    pub fn user(&self, id: &UserId) -> Result<std::sync::Arc<User>, Error> {
        let user = self.ledger.read(|book| book.user(id).cloned());
        user.ok_or_else(|| orch_domain::book::no_user(id))
    }
}
