//! What the server says about itself when a client connects.

use rmcp::model::{Icon, Implementation, ServerCapabilities, ServerConfig};

const INSTRUCTIONS: &str = include_str!("../../../prompts/instructions.md");

/// Three stacked machines, drawn here so that no client has to fetch anything.
const ICON: &str = "data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'%20viewBox='0%200%2024%2024'%20fill='none'\
    %20stroke='%232563eb'%20stroke-width='2'%3E%3Crect%20x='3'%20y='3'%20width='18'%20height='5'%20rx='1'/%3E%3Crect%20x='3'\
    %20y='10'%20width='18'%20height='5'%20rx='1'/%3E%3Crect%20x='3'%20y='17'%20width='18'%20height='4'%20rx='1'/%3E%3C/svg%3E";

/// Only what is served is advertised. Tools and prompts change when those of the servers behind do.
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
pub(super) fn server_config() -> ServerConfig {
    let capabilities = ServerCapabilities::builder()
        .enable_logging()
        .enable_completions()
        .enable_prompts()
        .enable_prompts_list_changed()
        .enable_resources()
        .enable_resources_subscribe()
        .enable_resources_list_changed()
        .enable_tools()
        .enable_tool_list_changed()
        .enable_tasks()
        .build();
    let icon = Icon::new(ICON).with_mime_type("image/svg+xml").with_sizes(vec!["any".to_owned()]);
    let implementation = Implementation::new("mcp-orch", env!("CARGO_PKG_VERSION"))
        .with_title("mcp-orch, a private cloud")
        .with_description(env!("CARGO_PKG_DESCRIPTION"))
        .with_icons(vec![icon]);
    ServerConfig::new(capabilities)
        .with_server_info(implementation)
        .with_instructions(INSTRUCTIONS.trim_end())
}
