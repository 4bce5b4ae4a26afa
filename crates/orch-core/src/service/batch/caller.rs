//! Who a batch runs for, looked up anew at each step: what was taken away meanwhile is gone.

use orch_domain::Error;
use orch_domain::batch::RunsFor;
use orch_domain::caller::{Caller, Permission};

use crate::{Cx, Orch};

impl Orch {
    /// The caller of the next step, with no more than the batch began with and no more than is allowed now.
    pub(super) fn caller_now(&self, of: &RunsFor) -> Result<Caller, Error> {
        let gone = |what: &str| Error::Unauthenticated {
            message: format!(
                "{what}, so the batch goes no further; begin it again with another login"
            ),
        };
        let mut permissions = of.permissions.clone();
        let mut tools = of.tools.clone();
        if !of.user.is_external() {
            let now = self.clock.now();
            self.ledger.read(|book| {
                let user = book.user(&of.user).ok_or_else(|| gone("the user is gone"))?;
                permissions = both(&permissions, &user.permissions);
                tools = std::mem::take(&mut tools).and(&user.tools);
                if let Some(id) = &of.key {
                    let key = book.api_key(id).ok_or_else(|| gone("the API key was revoked"))?;
                    if key.expires_at.is_some_and(|it| it <= now) {
                        return Err(gone("the API key has expired"));
                    }
                    permissions = both(&permissions, &key.permissions);
                    tools = std::mem::take(&mut tools).and(&key.tools);
                }
                Ok(())
            })?;
        }
        Ok(Caller {
            user: of.user.clone(),
            permissions,
            channel: of.channel,
            client: of.client.clone(),
            tools,
            key: of.key.clone(),
        })
    }

    /// The context of calls for a batch, at the endpoint that it was begun at.
    pub(super) fn cx_now(&self, of: &RunsFor) -> Result<Cx, Error> {
        let cx = Cx::new(Some(self.caller_now(of)?));
        let Some(profile) = &of.profile else { return Ok(cx) };
        let scope =
            self.scopes.get().and_then(|it| it(profile)).ok_or_else(|| Error::NotFound {
                kind: "profile",
                id: orch_domain::text::excerpt(profile, 60),
                hint: "the batch was begun there; begin it again at another endpoint".to_owned(),
            })?;
        Ok(cx.with_scope(scope))
    }
}

/// What both have; `admin` has all.
fn both(a: &[Permission], b: &[Permission]) -> Vec<Permission> {
    let may =
        |of: &[Permission], it: Permission| of.contains(&it) || of.contains(&Permission::Admin);
    Permission::ALL.into_iter().filter(|it| may(a, *it) && may(b, *it)).collect()
}
