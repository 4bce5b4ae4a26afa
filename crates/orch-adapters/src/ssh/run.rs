//! A command on the machine: what it prints, within bounds of time and size, and its end.

use std::time::Duration;

use russh::ChannelMsg;
use russh::client::Msg;
use tokio::sync::oneshot;

use super::SshError;

/// What a command may print; more, and it is ended.
const MAX_BYTES: usize = 64 << 10;

/// What a command printed to its standard output.
#[derive(Debug)]
pub struct Printed {
    pub bytes: Vec<u8>,
    /// False: it went on, for too long or with too much.
    pub is_whole: bool,
}

/// Tells what the command prints, and stays until the machine has ended it.
pub(super) async fn attend(
    mut channel: russh::Channel<Msg>,
    input: String,
    within: Duration,
    told: oneshot::Sender<Result<Printed, SshError>>,
) {
    let deadline = tokio::time::sleep(within);
    tokio::pin!(deadline);
    let mut told = Some(told);
    let mut tell = |bytes: Vec<u8>, is_whole| {
        if let Some(told) = told.take() {
            // Whoever asked may have left.
            drop(told.send(Ok(Printed { bytes, is_whole })));
        }
    };
    let mut bytes = Vec::new();
    // What it does not read is lost, and so is a command that is gone already.
    let fed = async { channel.data(input.as_bytes()).await.is_ok() && channel.eof().await.is_ok() };
    let is_fed = tokio::select! {
        it = fed => it,
        () = &mut deadline => false,
    };
    if !is_fed {
        tell(Vec::new(), false);
    }
    loop {
        tokio::select! {
            message = channel.wait() => match message {
                Some(ChannelMsg::Data { data }) => {
                    let room = MAX_BYTES.saturating_sub(bytes.len());
                    if room < data.len() {
                        tell(std::mem::take(&mut bytes), false);
                        // Its next word goes nowhere, which ends it.
                        channel.close().await.ok();
                        return;
                    }
                    bytes.extend_from_slice(&data);
                }
                Some(ChannelMsg::Eof) => tell(std::mem::take(&mut bytes), true),
                Some(ChannelMsg::Close) | None => {
                    tell(bytes, false);
                    channel.close().await.ok();
                    return;
                }
                Some(_) => {}
            },
            () = &mut deadline, if !deadline.is_elapsed() => tell(std::mem::take(&mut bytes), false),
        }
    }
}
