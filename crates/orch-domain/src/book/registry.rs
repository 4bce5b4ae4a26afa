//! Logins at registries in the book.

use std::sync::Arc;

use super::Book;
use super::change::Undo;
use crate::Error;
use crate::registry::{RegistryCredential, RegistryHost};

impl Book {
    pub fn registry_credential(&self, registry: &RegistryHost) -> Option<&Arc<RegistryCredential>> {
        self.registry_credentials.get(registry)
    }

    /// By registry.
    pub fn registry_credentials(&self) -> impl Iterator<Item = &Arc<RegistryCredential>> {
        self.registry_credentials.values()
    }

    /// Answers the one that it replaces.
    pub fn set_registry_credential(
        &mut self,
        credential: RegistryCredential,
    ) -> Option<Arc<RegistryCredential>> {
        let registry = credential.registry.clone();
        let old = self.registry_credentials.insert(registry.clone(), Arc::new(credential));
        self.journal.push(Undo::RegistryCredential(registry, old.clone()));
        old
    }

    pub fn remove_registry_credential(
        &mut self,
        registry: &RegistryHost,
    ) -> Result<Arc<RegistryCredential>, Error> {
        let Some(old) = self.registry_credentials.remove(registry) else {
            let hint = "`list_registry_credentials` shows those there are".to_owned();
            return Err(Error::NotFound {
                kind: "registry credential",
                id: registry.to_string(),
                hint,
            });
        };
        self.journal.push(Undo::RegistryCredential(registry.clone(), Some(old.clone())));
        Ok(old)
    }
}
