//! Writes, each at the server that has its key, with a proof for all of them that they are as durable as asked.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::{ReshardError, Work};
use crate::queue::redis::{
    check, error, keys,
    link::pipeline,
    primary::Primary,
    proof::{Proof, barrier_command, proven},
};

impl Work {
    /// Makes writes, in order at each server, and gives the answer to each. When this is `Ok` they are durable.
    pub(super) async fn write(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, ReshardError> {
        let mut answers: Vec<Value> = commands.iter().map(|_| Value::Nil).collect();
        let mut groups: Vec<(Arc<Primary>, Vec<usize>, Vec<Cmd>)> = Vec::new();
        for (at, command) in commands.into_iter().enumerate() {
            let primary = self.nodes.of_slot(keys::slot_of(&command)).map_err(error::from_redis)?;
            match groups.iter_mut().find(|(known, ..)| Arc::ptr_eq(known, &primary)) {
                Some((_, places, group)) => {
                    places.push(at);
                    group.push(command);
                }
                None => groups.push((primary, vec![at], vec![command])),
            }
        }
        let written = groups.into_iter().map(|(primary, places, group)| async move {
            Ok::<_, ReshardError>((places, self.write_at(&primary, group).await?))
        });
        for written in join_all(written).await {
            let (places, values) = written?;
            for (at, value) in places.into_iter().zip(values) {
                answers[at] = value;
            }
        }
        Ok(answers)
    }

    async fn write_at(&self, primary: &Primary, commands: Vec<Cmd>) -> Result<Vec<Value>, ReshardError> {
        let not_durable =
            |why: &dyn std::fmt::Display| ReshardError::NotDurable(format!("{}: {why}", primary.address));
        let timeouts = self.writing.endpoint.timeouts;
        let opened = primary.link.opened_within(timeouts.connect).await.map_err(error::from_redis)?;
        let found = check::fitness(&primary.link, &opened, &self.writing).await?;
        let barrier = found.map_err(|unfit| not_durable(&unfit))?;
        let wait = barrier_command(barrier, self.writing.patience);
        // Many moves take longer than the answer to one.
        let limit = timeouts.response + self.writing.patience + Duration::from_secs(10);
        let sent = primary.link.send_on(&opened, &pipeline(commands), wait.as_ref(), limit).await;
        let mut answers = sent.map_err(error::from_redis)?;
        let proof = if primary.is_retired() {
            Proof::Void
        } else if wait.is_some() {
            proven(barrier, answers.pop())
        } else {
            Proof::Met
        };
        // What failed by itself says more than that it is not durable.
        let mut values = Vec::with_capacity(answers.len());
        for answer in answers {
            values.push(answer.map_err(error::from_redis)?);
        }
        proof.result().map_err(|missed| not_durable(&missed))?;
        Ok(values)
    }
}
