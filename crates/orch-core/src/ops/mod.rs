//! Every operation, one file each: its request, its answer, what faces say about it, and what it does.

mod add_server;
mod approve_tools;
mod batch_cancel;
mod batch_execute;
mod batch_plan;
mod batch_result;
mod batch_status;
mod call_tool;
mod change_password;
mod check_node;
mod cluster_capacity;
mod cluster_health;
mod cluster_status;
mod cordon_node;
mod create_api_key;
mod create_user;
mod dashboard_summary;
mod delete_registry_credential;
mod delete_user;
mod discover_nodes;
mod drain_node;
mod exec_in_instance;
mod get_instance;
mod get_node;
mod get_quota;
mod get_result;
mod get_user;
mod instance_logs;
mod instance_stats;
mod launch_instance;
mod list_api_keys;
mod list_audit;
mod list_batches;
mod list_events;
mod list_images;
mod list_instances;
mod list_nodes;
mod list_registry_credentials;
mod list_servers;
mod list_tools;
mod list_users;
mod login;
mod login_server;
mod logout_server;
mod node_status;
mod pull_image;
mod ray_job_logs;
mod ray_list_jobs;
mod ray_nodes;
mod ray_status;
mod ray_stop_job;
mod ray_submit_job;
mod register_node;
mod reload_servers;
mod remove_node;
mod remove_server;
mod restart_instance;
mod revoke_api_key;
mod search_tools;
mod set_registry_credential;
mod start_instance;
mod stop_instance;
mod task_status;
mod terminate_instance;
mod uncordon_node;
mod update_instance;
mod update_node;
mod update_user;
mod whoami;

pub use add_server::{AddServer, AddedServer};
pub use approve_tools::{ApproveTools, ApprovedTools};
pub use batch_cancel::{BatchCancel, CancelledBatch};
pub use batch_execute::{BatchExecute, ExecutedBatch, PlainCall};
pub use batch_plan::{BatchPlan, PlannedBatch};
pub use batch_result::{BatchResult, BatchResults};
pub use batch_status::{BatchProgress, BatchStatus};
pub use call_tool::{CallTool, ToolResult};
pub use change_password::ChangePassword;
pub use check_node::{CheckNode, CheckedNode};
pub use cluster_capacity::{CapacityReport, ClusterCapacity};
pub use cluster_health::{ClusterHealth, HealthReport};
pub use cluster_status::{ClusterReport, ClusterStatus};
pub use cordon_node::CordonNode;
pub use create_api_key::{CreateApiKey, NewApiKey};
pub use create_user::CreateUser;
pub use dashboard_summary::{Dashboard, DashboardSummary};
pub use delete_registry_credential::{DeleteRegistryCredential, DeletedRegistryCredential};
pub use delete_user::{DeleteUser, DeletedUser};
pub use discover_nodes::{DiscoverNodes, DiscoveredMachine, DiscoveredNodes};
pub use drain_node::{DrainAction, DrainNode, DrainedInstance, DrainedNode};
pub use exec_in_instance::{ExecInInstance, ExecResult};
pub use get_instance::GetInstance;
pub use get_node::GetNode;
pub use get_quota::{GetQuota, OwnQuota};
pub use get_result::GetResult;
pub use get_user::GetUser;
pub use instance_logs::{InstanceLogs, LogText};
pub use instance_stats::{InstanceStats, InstanceUse};
pub use launch_instance::{LaunchInstance, LaunchedInstances};
pub use list_api_keys::{ApiKeyList, ListApiKeys};
pub use list_audit::{AuditList, ListAudit};
pub use list_batches::{BatchList, ListBatches};
pub use list_events::{EventList, ListEvents};
pub use list_images::{ImageFailure, ImageList, ListImages};
pub use list_instances::{InstanceList, ListInstances};
pub use list_nodes::{ListNodes, NodeList};
pub use list_registry_credentials::{ListRegistryCredentials, RegistryCredentialList};
pub use list_servers::{ListServers, ServerList};
pub use list_tools::{ListTools, ToolList, ToolView};
pub use list_users::{ListUsers, UserList};
pub use login::{LoggedIn, Login};
pub use login_server::{LoginServer, ServerLoginBegun};
pub use logout_server::{LoggedOutServer, LogoutServer};
pub use node_status::{NodeLoad, NodeStatus, NodeStatuses};
pub use pull_image::{NodeOutcome, PullImage, PullOutcome, PullReport};
pub use ray_job_logs::{RayJobLogs, RayLogText};
pub use ray_list_jobs::{RayJobList, RayListJobs};
pub use ray_nodes::{RayNodeList, RayNodes};
pub use ray_status::{RayReport, RayStatus};
pub use ray_stop_job::{RayStopJob, StoppedRayJob};
pub use ray_submit_job::{RaySubmitJob, SubmittedRayJob};
pub use register_node::{EngineKind, RegisterNode};
pub use reload_servers::ReloadServers;
pub use remove_node::{RemoveNode, RemovedNode};
pub use remove_server::{RemoveServer, RemovedServer};
pub use restart_instance::RestartInstance;
pub use revoke_api_key::{RevokeApiKey, RevokedApiKey};
pub use search_tools::{FoundTool, FoundTools, SearchTools};
pub use set_registry_credential::{KeptRegistryCredential, SetRegistryCredential};
pub use start_instance::StartInstance;
pub use stop_instance::StopInstance;
pub use task_status::{TaskList, TaskStatus};
pub use terminate_instance::TerminateInstance;
pub use uncordon_node::UncordonNode;
pub use update_instance::UpdateInstance;
pub use update_node::UpdateNode;
pub use update_user::UpdateUser;
pub use whoami::Whoami;

use crate::Op;

/// Every capability of the product, in reading order.
pub fn catalogue() -> Vec<Op> {
    vec![
        Op::of::<LaunchInstance>(),
        Op::of::<ListInstances>(),
        Op::of::<GetInstance>(),
        Op::of::<UpdateInstance>(),
        Op::of::<StopInstance>(),
        Op::of::<StartInstance>(),
        Op::of::<RestartInstance>(),
        Op::of::<TerminateInstance>(),
        Op::of::<InstanceLogs>(),
        Op::of::<InstanceStats>(),
        Op::of::<ExecInInstance>(),
        Op::of::<ListNodes>(),
        Op::of::<GetNode>(),
        Op::of::<RegisterNode>(),
        Op::of::<DiscoverNodes>(),
        Op::of::<UpdateNode>(),
        Op::of::<RemoveNode>(),
        Op::of::<CheckNode>(),
        Op::of::<CordonNode>(),
        Op::of::<UncordonNode>(),
        Op::of::<DrainNode>(),
        Op::of::<ClusterStatus>(),
        Op::of::<ClusterHealth>(),
        Op::of::<ClusterCapacity>(),
        Op::of::<DashboardSummary>(),
        Op::of::<NodeStatus>(),
        Op::of::<ListImages>(),
        Op::of::<ListEvents>(),
        Op::of::<PullImage>(),
        Op::of::<ListRegistryCredentials>(),
        Op::of::<SetRegistryCredential>(),
        Op::of::<DeleteRegistryCredential>(),
        Op::of::<TaskStatus>(),
        Op::of::<RayStatus>(),
        Op::of::<RayNodes>(),
        Op::of::<RaySubmitJob>(),
        Op::of::<RayListJobs>(),
        Op::of::<RayJobLogs>(),
        Op::of::<RayStopJob>(),
        Op::of::<ListTools>(),
        Op::of::<SearchTools>(),
        Op::of::<CallTool>(),
        Op::of::<ListServers>(),
        Op::of::<ApproveTools>(),
        Op::of::<GetResult>(),
        Op::of::<AddServer>(),
        Op::of::<RemoveServer>(),
        Op::of::<ReloadServers>(),
        Op::of::<LoginServer>(),
        Op::of::<LogoutServer>(),
        Op::of::<BatchPlan>(),
        Op::of::<BatchExecute>(),
        Op::of::<BatchStatus>(),
        Op::of::<BatchResult>(),
        Op::of::<BatchCancel>(),
        Op::of::<ListBatches>(),
        Op::of::<Login>(),
        Op::of::<Whoami>(),
        Op::of::<GetQuota>(),
        Op::of::<ChangePassword>(),
        Op::of::<ListUsers>(),
        Op::of::<CreateUser>(),
        Op::of::<GetUser>(),
        Op::of::<UpdateUser>(),
        Op::of::<DeleteUser>(),
        Op::of::<ListApiKeys>(),
        Op::of::<CreateApiKey>(),
        Op::of::<RevokeApiKey>(),
        Op::of::<ListAudit>(),
    ]
}

/// What serde takes for a flag that is true unless given.
fn yes() -> bool {
    true
}
