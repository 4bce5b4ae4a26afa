//! What is wrong with a configuration, where it was written, and what is allowed there.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file `{}` could not be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not valid YAML: {message}", path.display())]
    Yaml { path: PathBuf, message: String },
    #[error("{origin}: `{key}`: {message}{}", hint(.allowed))]
    Value { origin: String, key: String, message: String, allowed: String },
    #[error("{origin}: `{key}` refers to the environment variable `{variable}`, which is not set")]
    UnsetVariable { origin: String, key: String, variable: String },
}

fn hint(allowed: &str) -> String {
    if allowed.is_empty() { String::new() } else { format!("\nhint: {allowed}") }
}
