//! A change that is killed: after every so many commands, also again and again, and gone on with. Nothing is lost or doubled, and no dispatcher
//! starts in between.

use std::sync::{Arc, atomic::AtomicI64};

use super::{
    super::{Server, options},
    scene::{Seen, change, connect, end, filled, is_clean, look, nobody_listens, works_on},
};
use crate::queue::{
    TaskId,
    redis::{ConnectError, RedisOptions, Unfit, reshard::ReshardError},
};

/// More than any change here needs.
const ENOUGH: i64 = 1 << 40;

/// Options with which everything fails after so many commands.
fn mortal(options: &RedisOptions, commands: i64) -> (RedisOptions, Arc<AtomicI64>) {
    let life = Arc::new(AtomicI64::new(commands));
    (RedisOptions { life: Some(Arc::clone(&life)), ..options.clone() }, life)
}

/// A filled database that nobody works on.
struct Scene {
    server: Server,
    options: RedisOptions,
    ids: Vec<TaskId>,
    before: Seen,
}

impl Scene {
    async fn new(server: Server, db: u32, from: u16) -> Self {
        let options = options(&server, db);
        let (ids, before) = filled(&options, from).await;
        let scene = Self { server, options, ids, before };
        scene.nobody_listens().await;
        scene
    }

    async fn nobody_listens(&self) {
        nobody_listens(std::slice::from_ref(&self.server)).await;
    }

    /// Changes the number with a life of so many commands.
    async fn change_within(&self, to: u16, commands: i64) -> Result<(), ReshardError> {
        let (options, _) = mortal(&self.options, commands);
        let changed = change(&options, to).await.map(drop);
        self.nobody_listens().await;
        changed
    }

    async fn is_as_before(&self, shards: u16, what: &str) {
        let queue = connect(&self.options, shards).await.unwrap();
        assert_eq!(look(&queue, &self.ids).await, self.before, "{what}");
        end(queue).await;
        is_clean(&self.options).await;
        self.nobody_listens().await;
    }

    /// Dispatchers of either number are kept out from when something may have moved until the end; before and after, one of them is let in.
    async fn lets_in_who_may(&self, from: u16, to: u16, what: &str) {
        let mut let_in = Vec::new();
        for shards in [from, to] {
            match connect(&self.options, shards).await {
                Ok(queue) => {
                    let_in.push(shards);
                    assert_eq!(look(&queue, &self.ids).await, self.before, "{what}, let in with {shards}");
                    end(queue).await;
                }
                Err(ConnectError::Unfit(Unfit::Resharding { .. } | Unfit::OtherShards { .. })) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!(let_in.len() <= 1, "{what}: {let_in:?}");
        self.nobody_listens().await;
    }
}

/// How many commands a change takes.
async fn length(from: u16, to: u16) -> i64 {
    let scene = Scene::new(Server::start(&[]), 0, from).await;
    let (options, life) = mortal(&scene.options, ENOUGH);
    change(&options, to).await.unwrap();
    ENOUGH - life.load(std::sync::atomic::Ordering::Relaxed)
}

/// Kills a change at `places` places, spread evenly over its commands and a bit further each time, goes on with it, and compares.
async fn killed_at(from: u16, to: u16, places: i64, shift: i64) {
    let length = length(from, to).await;
    let mut server = Server::start(&[]);
    let mut killed = 0;
    for place in 0..places {
        let commands = (length * place / places + shift * length / places / 4).min(length - 1);
        let what = format!("killed after {commands} of {length} commands");
        let scene = Scene::new(server, u32::try_from(place).unwrap(), from).await;
        // No two changes take exactly as many, so that near its end one may survive.
        killed += i64::from(scene.change_within(to, commands).await.is_err());
        scene.lets_in_who_may(from, to, &what).await;
        scene.change_within(to, ENOUGH).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        scene.is_as_before(to, &what).await;
        server = scene.server;
    }
    assert!(killed >= places / 2, "killed {killed} times");
}

#[tokio::test]
async fn a_change_to_more_shards_is_gone_on_with_wherever_it_was_killed() {
    killed_at(3, 5, 20, 0).await;
}

#[tokio::test]
async fn a_change_to_more_shards_is_gone_on_with_wherever_else_it_was_killed() {
    killed_at(3, 5, 20, 2).await;
}

#[tokio::test]
async fn a_change_to_fewer_shards_is_gone_on_with_wherever_it_was_killed() {
    killed_at(5, 2, 20, 1).await;
}

#[tokio::test]
async fn a_change_to_fewer_shards_is_gone_on_with_wherever_else_it_was_killed() {
    killed_at(5, 2, 20, 3).await;
}

#[tokio::test]
async fn the_last_commands_of_a_change_may_be_its_end_too() {
    let length = length(4, 3).await;
    let mut server = Server::start(&[]);
    for last in 1..=12 {
        let what = format!("killed {last} commands before its end");
        let scene = Scene::new(server, u32::try_from(last).unwrap(), 4).await;
        // It may have come to its end.
        drop(scene.change_within(3, length - last).await);
        scene.lets_in_who_may(4, 3, &what).await;
        scene.change_within(3, ENOUGH).await.unwrap();
        scene.is_as_before(3, &what).await;
        server = scene.server;
    }
}

#[tokio::test]
async fn one_that_is_killed_again_and_again_comes_to_its_end() {
    let scene = Scene::new(Server::start(&[]), 0, 3).await;
    let length = length(3, 7).await;
    let mut lives = 0;
    let mut commands = length / 10;
    while scene.change_within(7, commands).await.is_err() {
        lives += 1;
        // What it looks at first takes longer than the rest of a short life.
        commands += length / 10;
    }
    assert!(lives > 3, "{lives}");
    scene.is_as_before(7, "killed often").await;
}

#[tokio::test]
async fn one_that_was_begun_can_go_elsewhere_or_back() {
    let mut server = Server::start(&[]);
    for (db, to) in [(0, 6), (1, 3), (2, 1)] {
        let scene = Scene::new(server, db, 3).await;
        let length = length(3, 16).await;
        assert!(scene.change_within(16, length / 2).await.is_err());
        assert!(scene.change_within(to, length / 5).await.is_err());
        scene.change_within(to, ENOUGH).await.unwrap();
        scene.is_as_before(to, &format!("to {to} instead")).await;
        let queue = connect(&scene.options, to).await.unwrap();
        works_on(&queue, &scene.ids).await;
        end(queue).await;
        is_clean(&scene.options).await;
        server = scene.server;
    }
}
