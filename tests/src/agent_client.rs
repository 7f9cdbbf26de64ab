//! The agent's protocol, spoken without the crates under test.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::agent;

/// A running `bdsync-agent serve` that has said hello.
#[derive(Debug)]
pub struct AgentClient {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Drop for AgentClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl AgentClient {
    /// Starts one with these options.
    ///
    /// # Panics
    ///
    /// When it cannot be started or does not say hello.
    pub fn start(options: &[&str]) -> Self {
        let mut command = Command::new(agent());
        command.arg("serve").args(options).env("SSH_ORIGINAL_COMMAND", "bdsync-agent serve --restrict-to /");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.expect("the agent");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut client = Self { child, input: Some(input), output };
        client.send(1, b"CLIENT+agent=1,zstd,unknown=7 0.5");
        let (kind, hello) = client.receive();
        assert_eq!(kind, 1);
        assert!(hello.starts_with(b"SERVER+agent=1") && hello.ends_with(b" 0.5"), "{hello:?}");
        client
    }

    /// Sends a message.
    ///
    /// # Panics
    ///
    /// When the agent is gone.
    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut message = (payload.len() as u32 + 1).to_le_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(payload);
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(&message).expect("the agent takes a message");
    }

    /// The next message: its type and its payload.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.output.read_exact(&mut head).expect("a message");
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let mut payload = vec![0; length as usize - 1];
        self.output.read_exact(&mut payload).expect("the rest of a message");
        (head[4], payload)
    }

    /// Sends a request and takes its answer: what came of it, or why nothing did.
    ///
    /// # Errors
    ///
    /// The agent's error.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn ask(&mut self, request: Value) -> Result<Value, String> {
        self.send(64, request.to_string().as_bytes());
        self.answer()
    }

    /// Takes an answer.
    ///
    /// # Errors
    ///
    /// The agent's error.
    ///
    /// # Panics
    ///
    /// When something else comes.
    pub fn answer(&mut self) -> Result<Value, String> {
        loop {
            let (kind, payload) = self.receive();
            match kind {
                65 => {
                    let answer: Value = serde_json::from_slice(&payload).expect("JSON");
                    return match answer.get("error").or(answer.get("locked")) {
                        Some(error) => Err(error.as_str().expect("a text").into()),
                        None => Ok(answer["ok"].clone()),
                    };
                }
                66 => {}
                other => panic!("message {other} in place of an answer"),
            }
        }
    }

    /// The facts of a path, as far as they are told.
    ///
    /// # Errors
    ///
    /// The agent's error.
    pub fn facts(&mut self, path: &str) -> Result<Value, String> {
        self.ask(json!({ "op": "facts", "path": path }))
    }

    /// Ends its input; gives its exit status.
    ///
    /// # Panics
    ///
    /// When it cannot be waited for.
    pub fn end(mut self) -> Option<i32> {
        drop(self.input.take());
        let mut rest = Vec::new();
        let _ = self.output.read_to_end(&mut rest);
        self.child.wait().expect("an end").code()
    }
}

/// What a `compare` of 4096-byte blocks is asked with.
pub fn compare_request(path: &str, length: u64) -> Value {
    json!({
        "op": "compare", "path": path, "length": length, "block_size": 4096, "fanout": 32,
        "hash": "md5", "salt": "00", "window": 100,
    })
}
