//! Places where a crash would hurt. A test ends the process at one of them and looks at what the next start makes of it.

/// Every persisted step of a saga, and every side effect between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failpoint {
    LaunchReserved,
    LaunchImagePresent,
    LaunchCreated,
    LaunchStarted,
    LaunchRunning,
    LaunchPortsMoved,
    LaunchFailed,
    StopRequested,
    StopStopped,
    StopRecorded,
    StartRequested,
    StartStarted,
    StartRecorded,
    RestartStopped,
    TerminateRequested,
    TerminateStopped,
    TerminateRemoved,
    TerminateRecorded,
    RescheduleReserved,
    RescheduleCreated,
    RescheduleStarted,
    RescheduleRunning,
    RemnantStopped,
    RemnantRemoved,
    RemnantReleased,
}

impl Failpoint {
    pub const ALL: [Failpoint; 25] = [
        Failpoint::LaunchReserved,
        Failpoint::LaunchImagePresent,
        Failpoint::LaunchCreated,
        Failpoint::LaunchStarted,
        Failpoint::LaunchRunning,
        Failpoint::LaunchPortsMoved,
        Failpoint::LaunchFailed,
        Failpoint::StopRequested,
        Failpoint::StopStopped,
        Failpoint::StopRecorded,
        Failpoint::StartRequested,
        Failpoint::StartStarted,
        Failpoint::StartRecorded,
        Failpoint::RestartStopped,
        Failpoint::TerminateRequested,
        Failpoint::TerminateStopped,
        Failpoint::TerminateRemoved,
        Failpoint::TerminateRecorded,
        Failpoint::RescheduleReserved,
        Failpoint::RescheduleCreated,
        Failpoint::RescheduleStarted,
        Failpoint::RescheduleRunning,
        Failpoint::RemnantStopped,
        Failpoint::RemnantRemoved,
        Failpoint::RemnantReleased,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Failpoint::LaunchReserved => "launch.reserved",
            Failpoint::LaunchImagePresent => "launch.image-present",
            Failpoint::LaunchCreated => "launch.created",
            Failpoint::LaunchStarted => "launch.started",
            Failpoint::LaunchRunning => "launch.running",
            Failpoint::LaunchPortsMoved => "launch.ports-moved",
            Failpoint::LaunchFailed => "launch.failed",
            Failpoint::StopRequested => "stop.requested",
            Failpoint::StopStopped => "stop.stopped",
            Failpoint::StopRecorded => "stop.recorded",
            Failpoint::StartRequested => "start.requested",
            Failpoint::StartStarted => "start.started",
            Failpoint::StartRecorded => "start.recorded",
            Failpoint::RestartStopped => "restart.stopped",
            Failpoint::TerminateRequested => "terminate.requested",
            Failpoint::TerminateStopped => "terminate.stopped",
            Failpoint::TerminateRemoved => "terminate.removed",
            Failpoint::TerminateRecorded => "terminate.recorded",
            Failpoint::RescheduleReserved => "reschedule.reserved",
            Failpoint::RescheduleCreated => "reschedule.created",
            Failpoint::RescheduleStarted => "reschedule.started",
            Failpoint::RescheduleRunning => "reschedule.running",
            Failpoint::RemnantStopped => "remnant.stopped",
            Failpoint::RemnantRemoved => "remnant.removed",
            Failpoint::RemnantReleased => "remnant.released",
        }
    }
}

pub trait Failpoints: Send + Sync {
    /// Called at each place; does nothing, or does not return.
    fn reach(&self, at: Failpoint);
}

/// The product's: nothing happens.
pub struct NoFailpoints;

impl Failpoints for NoFailpoints {
    fn reach(&self, _: Failpoint) {}
}
