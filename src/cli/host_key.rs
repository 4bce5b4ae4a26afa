//! The question whether a machine that was never met is the right one, as `ssh` asks it.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use serde_json::{Map, Value};

use super::client::{Connection, Listener, Outcome};
use super::say;

/// More questions in a row than there can be machines on the way to one.
const MOST_QUESTIONS: usize = 10;

/// The key that a refusal is about.
struct Unknown<'a> {
    /// The argument inside `ssh` that accepts it.
    argument: &'a str,
    place: &'a str,
    fingerprint: &'a str,
    algorithm: &'a str,
}

impl<'a> Unknown<'a> {
    fn of(outcome: &'a Outcome) -> Option<Unknown<'a>> {
        let key = outcome.value.get("host_key")?;
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        Some(Unknown {
            argument: outcome.value.get("parameter")?.as_str()?.strip_prefix("ssh.")?,
            place: text("place")?,
            fingerprint: text("fingerprint")?,
            algorithm: text("algorithm").unwrap_or("host"),
        })
    }

    /// A machine on the way adds to those that were accepted before it.
    fn accept(&self, arguments: &mut Map<String, Value>) -> anyhow::Result<()> {
        let ssh = arguments.entry("ssh").or_insert_with(|| Value::Object(Map::new()));
        let ssh = ssh.as_object_mut().context("`ssh` has to be an object")?;
        let before = ssh.get(self.argument).and_then(Value::as_str);
        let accepted = match before.filter(|_| self.argument == "accept_jump_host_key") {
            Some(before) => format!("{before},{}", self.fingerprint),
            None => self.fingerprint.to_owned(),
        };
        ssh.insert(self.argument.to_owned(), accepted.into());
        Ok(())
    }
}

/// Calls an operation that may meet a machine for the first time. Where somebody is there to answer they are asked
/// about each key; `arguments` then have what they accepted.
pub(super) async fn call(
    connection: &Connection,
    name: &str,
    arguments: &mut Map<String, Value>,
    listener: impl Fn() -> Option<Listener>,
    mut pause: impl FnMut(),
    interrupt: impl Fn() -> futures::future::BoxFuture<'static, ()>,
) -> anyhow::Result<Option<Outcome>> {
    for _ in 0..MOST_QUESTIONS {
        let answer = connection.call(name, arguments.clone(), listener(), interrupt()).await?;
        let Some(outcome) = answer else { return Ok(None) };
        let Some(unknown) = Unknown::of(&outcome) else { return Ok(Some(outcome)) };
        pause();
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Ok(Some(outcome));
        }
        if !ask(&unknown, &mut std::io::stdin().lock(), &mut std::io::stderr())? {
            say("the machine was not accepted");
            return Ok(Some(outcome));
        }
        unknown.accept(arguments)?;
    }
    anyhow::bail!("`{name}` asks about host keys without end; it is given up")
}

/// How to repeat what was refused for a key that nobody was there to accept; none: it was refused for something else.
pub(super) fn repeat(
    outcome: &Outcome,
    arguments: &Map<String, Value>,
    how: impl Fn(&str, &str, &Map<String, Value>) -> String,
) -> anyhow::Result<Option<String>> {
    let Some(unknown) = Unknown::of(outcome) else { return Ok(None) };
    let mut arguments = arguments.clone();
    unknown.accept(&mut arguments)?;
    let accepted = arguments["ssh"][unknown.argument].as_str().unwrap_or_default().to_owned();
    Ok(Some(format!(
        "compare the fingerprint on that machine; if it is the same, {}",
        how(unknown.argument, &accepted, &arguments)
    )))
}

fn ask(
    unknown: &Unknown<'_>,
    input: &mut impl BufRead,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    write!(
        out,
        "The authenticity of host '{}' can't be established.\n{} key fingerprint is {}.\n\
         Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        unknown.place, unknown.algorithm, unknown.fingerprint
    )?;
    loop {
        out.flush()?;
        let mut answer = String::new();
        if input.read_line(&mut answer).context("the answer cannot be read")? == 0 {
            return Ok(false);
        }
        match answer.trim() {
            "yes" => return Ok(true),
            "no" => return Ok(false),
            it if it == unknown.fingerprint => return Ok(true),
            _ => write!(out, "Please type 'yes', 'no' or the fingerprint: ")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FINGERPRINT: &str = "SHA256:uNiVztksCsDhcc0u9e8BrwDyEKVJ8rZJ1oRwYvPY3xI";

    fn refusal(parameter: &str) -> Outcome {
        let key = json!({"place": "ssh://root@h:22", "fingerprint": FINGERPRINT, "algorithm": "ssh-ed25519"});
        let value = json!({"error": "InvalidParameter", "parameter": parameter, "host_key": key});
        Outcome { is_error: true, value, text: String::new() }
    }

    #[test]
    fn only_a_whole_yes_or_the_key_itself_is_a_yes() {
        let outcome = refusal("ssh.accept_host_key");
        let unknown = Unknown::of(&outcome).unwrap();
        for (typed, is_accepted, n_asked_again) in [
            ("yes\n", true, 0),
            ("no\n", false, 0),
            ("", false, 0),
            ("y\nYes!\nyes\n", true, 2),
            ("SHA256:wrong\nno\n", false, 1),
            (&format!("{FINGERPRINT}\n"), true, 0),
        ] {
            let mut out = Vec::new();
            assert_eq!(
                ask(&unknown, &mut typed.as_bytes(), &mut out).unwrap(),
                is_accepted,
                "{typed}"
            );
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.matches("Please type").count(), n_asked_again, "{out}");
            assert!(out.contains(FINGERPRINT) && out.contains("ssh://root@h:22"), "{out}");
        }
    }

    #[test]
    fn accepted_keys_go_where_the_refusal_says_and_those_of_jumps_add_up() {
        let mut arguments = Map::from_iter([("hostname".to_owned(), json!("h"))]);
        let how = |argument: &str, accepted: &str, _: &Map<String, Value>| {
            format!("{argument}={accepted}")
        };
        for (parameter, key, wanted) in [
            ("ssh.accept_jump_host_key", "accept_jump_host_key", FINGERPRINT.to_owned()),
            (
                "ssh.accept_jump_host_key",
                "accept_jump_host_key",
                format!("{FINGERPRINT},{FINGERPRINT}"),
            ),
            ("ssh.accept_host_key", "accept_host_key", FINGERPRINT.to_owned()),
        ] {
            let outcome = refusal(parameter);
            let said = repeat(&outcome, &arguments, how).unwrap().unwrap();
            assert!(said.ends_with(&format!("{key}={wanted}")), "{said}");
            Unknown::of(&outcome).unwrap().accept(&mut arguments).unwrap();
            assert_eq!(arguments["ssh"][key], wanted);
        }
        let other =
            Outcome { is_error: true, value: json!({"error": "Conflict"}), text: String::new() };
        assert!(repeat(&other, &arguments, how).unwrap().is_none());
    }
}
