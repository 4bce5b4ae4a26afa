//! The one integration binary. A file per behaviour; what they share is in `harness`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

mod authorisation;
mod checks;
mod cli_call;
mod cli_files;
mod cli_serve;
mod commands;
mod crash;
mod documents;
mod drift;
mod engine_contract;
mod floors;
mod harness;
mod launch;
mod main_job;
mod mcp_calls;
mod mcp_http;
mod mcp_prompts;
mod mcp_resources;
mod mcp_tools;
mod official_clients;
mod ops_cluster;
mod ops_containers;
mod ops_identity;
mod ops_nodes;
mod prompts;
mod ray;
mod ray_cluster;
mod ray_jobs;
mod rest_access;
mod rest_arguments;
mod rest_hostile;
mod rest_instances;
mod rest_openapi;
mod rest_pages;
mod rest_stream;
mod rest_terminal;
mod saga;
mod ssh_faults;
mod ssh_login;
mod ssh_nodes;
mod stdio;
mod tools;
