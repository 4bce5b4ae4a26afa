//! Logins at image registries: taken in, kept encrypted, and opened for nothing but a pull.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::image::ImageRef;
use orch_domain::password::Password;
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::secret::Secret;

use crate::ports::engine::{EngineError, RegistryLogin};
use crate::{Cx, Orch};

impl Orch {
    /// Keeps a login for all pulls from `registry` that begin from now on. The answer says whether there was one before.
    pub async fn set_registry_credential(
        &self,
        cx: &Cx,
        registry: RegistryHost,
        username: String,
        password: &Password,
    ) -> Result<(Arc<RegistryCredential>, bool), Error> {
        cx.audit_target(&registry);
        let about = about(&registry, &username);
        let credential = RegistryCredential {
            sealed_password: self.seal.seal(&about, password.expose().as_bytes())?,
            registry,
            username,
            set_by: cx.caller()?.user.clone(),
            set_at: self.clock.now(),
        };
        let old = self
            .ledger
            .write(Some(cx), |book| Ok(book.set_registry_credential(credential.clone())))
            .await?;
        Ok((Arc::new(credential), old.is_some()))
    }

    pub async fn remove_registry_credential(
        &self,
        cx: &Cx,
        registry: &RegistryHost,
    ) -> Result<Arc<RegistryCredential>, Error> {
        cx.audit_target(registry);
        self.ledger.write(Some(cx), |book| book.remove_registry_credential(registry)).await
    }

    /// What a pull of `image` logs in with; None where nothing is kept for its registry.
    pub(crate) fn login_for(&self, image: &ImageRef) -> Result<Option<RegistryLogin>, EngineError> {
        let registry = image.registry();
        let kept = self.ledger.read(|book| book.registry_credential(&registry).cloned());
        let Some(kept) = kept else { return Ok(None) };
        let about = about(&kept.registry, &kept.username);
        let opened = self.seal.open(&about, &kept.sealed_password);
        let password = opened.and_then(|it| String::from_utf8(it).ok()).ok_or_else(|| {
            EngineError::Refused {
                message: format!(
                    "the login kept for the registry `{registry}` cannot be decrypted; an administrator has to set it \
                     again with `set_registry_credential`"
                ),
            }
        })?;
        let username = kept.username.clone();
        Ok(Some(RegistryLogin { registry, username, password: Secret::new(password) }))
    }
}

/// Host names have no newline.
fn about(registry: &RegistryHost, username: &str) -> String {
    format!("{registry}\n{username}")
}
