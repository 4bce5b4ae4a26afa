//! Logins at the servers of the hub, as the floor below wants them.

use std::sync::Arc;

use async_trait::async_trait;
use orch_core::Cx;
use orch_core::ports::server_login::{
    BegunLogin, FinishedLogin, LoginAnswer, LoginWay, ServerLogins,
};
use orch_core::ports::tool_server::no_server;
use orch_domain::Error;
use orch_domain::name::UserId;
use orch_domain::time::Timestamp;

use super::{LoginSite, Standing};
use crate::port::Gateway;
use crate::server::{Server, State};

impl Gateway {
    fn login_site(&self, name: &str) -> Result<(Arc<Server>, LoginSite), Error> {
        let server = self.hub.server(name).ok_or_else(|| no_server(name))?;
        let site =
            LoginSite::of(&server.name, &server.spec).filter(|it| !it.entry.client_credentials);
        let refused = || Error::IncorrectState {
            id: server.name.to_string(),
            state: "without logins".to_owned(),
            message: format!(
                "the server `{}` takes no logins: it is a program, or its configuration has a header `Authorization` or \
                 `oauth.client_credentials`, which are for all users",
                server.name
            ),
        };
        let site = site.ok_or_else(refused)?;
        Ok((server, site))
    }
}

#[async_trait]
impl ServerLogins for Gateway {
    fn needed(&self, server: &str, user: &UserId) -> Option<String> {
        let (server, site) = self.login_site(server).ok()?;
        let logins = self.hub.logins();
        match logins.standing(&site, user) {
            Standing::In(_) => None,
            Standing::Over(words) => Some(words),
            Standing::Nothing => {
                let is_others = server.live().is_some_and(|it| it.owner.is_some());
                let is_wanted = is_others || matches!(server.state().0, State::NeedsLogin { .. });
                let words = || match logins.failure(&site, user) {
                    Some(failure) => format!("{failure}; {}", site.wanted()),
                    None => site.wanted(),
                };
                is_wanted.then(words)
            }
        }
    }

    async fn begin(&self, server: &str, way: LoginWay, cx: &Cx) -> Result<BegunLogin, Error> {
        let (_, site) = self.login_site(server)?;
        self.hub.logins().begin(&site, &cx.caller()?.user, way).await
    }

    async fn finish(&self, answer: LoginAnswer) -> Result<FinishedLogin, Error> {
        self.hub.logins().finish(answer).await
    }

    async fn end(&self, server: &str, cx: &Cx) -> Result<Option<Timestamp>, Error> {
        let (_, site) = self.login_site(server)?;
        self.hub.logins().end(&site, &cx.caller()?.user, cx).await
    }
}
