//! Every operation, one file each: its request, its answer, what faces say about it, and what it does.

mod get_instance;
mod launch_instance;
mod list_instances;
mod restart_instance;
mod start_instance;
mod stop_instance;
mod terminate_instance;
mod update_instance;
mod whoami;

pub use get_instance::GetInstance;
pub use launch_instance::{LaunchInstance, LaunchedInstances};
pub use list_instances::{InstanceList, ListInstances};
pub use restart_instance::RestartInstance;
pub use start_instance::StartInstance;
pub use stop_instance::StopInstance;
pub use terminate_instance::TerminateInstance;
pub use update_instance::UpdateInstance;
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
        Op::of::<Whoami>(),
    ]
}
