//! Which part may use which: the arrows of the architecture, kept by looking at the names that each file uses.

use crate::{
    rust_text::{code_only, uses_of_crate, without_tests},
    tree::{Problem, TextFile, Tree, assert_none},
};

/// Files below a folder that must not use some crates.
struct Edge {
    /// Starts of paths.
    from: &'static [&'static str],
    /// Starts of paths that the rule leaves out.
    except: &'static [&'static str],
    /// Crates, as they are written in code.
    never: &'static [&'static str],
    why: &'static str,
}

const STORES: [&str; 3] = ["aws_sdk_s3", "aws_config", "s3s"];
const RPC: [&str; 4] = ["tonic", "prost", "prost_types", "backhaul_proto"];

const EDGES: [Edge; 14] = [
    Edge {
        from: &["proto/src/"],
        except: &[],
        never: &[
            "tokio",
            "redis",
            "aws_sdk_s3",
            "backhaul_runtime",
            "backhaul_dispatcher",
            "backhaul_worker",
        ],
        why: "the contract can be used by anybody's program: it brings nothing but messages",
    },
    Edge {
        from: &["dispatcher/src/queue/"],
        except: &["dispatcher/src/queue/redis"],
        never: &["redis", "tonic", "prost", "prost_types", "backhaul_proto"],
        why: "what a queue is and decides can be read, tested and modelled without Redis and without gRPC",
    },
    Edge {
        from: &["dispatcher/src/queue/redis"],
        // Only the encoding of a record uses prost, for messages of its own.
        except: &["dispatcher/src/queue/redis/codec.rs"],
        never: &RPC,
        why: "the queue in Redis must not change because a message does",
    },
    Edge {
        from: &["dispatcher/src/queue/redis/codec.rs"],
        except: &[],
        never: &["tonic", "prost_types", "backhaul_proto"],
        why: "the queue in Redis must not change because a message does",
    },
    Edge {
        from: &["dispatcher/src/session", "dispatcher/src/dispatch", "dispatcher/src/grpc"],
        except: &[],
        never: &["redis"],
        why: "the stream and the dispatch speak to the queue's trait, so that they are tested on the reference queue",
    },
    Edge {
        from: &["dispatcher/src/dispatch"],
        except: &["dispatcher/src/dispatch/testing.rs"],
        never: &["tonic"],
        why: "who gets which task is decided apart from how it is sent",
    },
    Edge {
        from: &["dispatcher/src/events/parse"],
        except: &[],
        never: &["tokio", "redis", "axum", "http", "tonic", "backhaul_proto", "backhaul_runtime"],
        why: "what strangers send is read by code that can do nothing else",
    },
    Edge {
        from: &["dispatcher/"],
        except: &[],
        never: &["backhaul_worker", "aws_sdk_s3", "aws_config"],
        why: "the dispatcher reaches no store and has no credentials for one; a stolen one cannot read a user's data",
    },
    Edge {
        from: &["worker/src/transfer"],
        except: &[],
        never: &["tonic", "prost", "prost_types", "backhaul_proto", "aws_sdk_s3", "aws_config"],
        why: "copying is the same whatever brings the task and whatever keeps the bytes",
    },
    Edge {
        from: &["worker/src/metrics"],
        except: &[],
        never: &["tonic", "prost", "prost_types", "backhaul_proto", "aws_sdk_s3", "aws_config"],
        why: "what is counted is the same whatever brings the task and whatever keeps the bytes",
    },
    Edge { from: &["worker/src/store"], except: &[], never: &RPC, why: "a store knows nothing of tasks" },
    Edge {
        from: &["worker/src/link"],
        except: &[],
        never: &STORES,
        why: "the stream to the dispatcher is tested without a store",
    },
    Edge {
        from: &["worker/"],
        except: &[],
        never: &["backhaul_dispatcher", "redis"],
        why: "worker and dispatcher meet in the contract only, so that each can be replaced while the other runs",
    },
    Edge {
        from: &["deploy/runtime/", "deploy/embedded-s3/"],
        except: &[],
        never: &["tonic", "backhaul_proto", "redis", "aws_sdk_s3", "backhaul_dispatcher", "backhaul_worker"],
        why: "what every program needs must not bring the whole of Backhaul with it",
    },
];

impl Edge {
    fn covers(&self, path: &str) -> bool {
        path.ends_with(".rs")
            && self.from.iter().any(|from| path.starts_with(from))
            && !self.except.iter().any(|except| path.starts_with(except))
            && !is_test_code(path)
    }

    fn problems(&self, file: &TextFile) -> Vec<Problem> {
        let code = without_tests(&code_only(&file.text));
        let uses =
            self.never.iter().flat_map(|name| uses_of_crate(&code, name).into_iter().map(move |l| (l, name)));
        uses.map(|(line, name)| file.problem_at(line, format!("uses `{name}`: {}", self.why))).collect()
    }
}

/// Tests may join what the code keeps apart.
fn is_test_code(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/examples/")
}

#[test]
fn parts_use_only_what_the_architecture_lets_them() {
    let tree = Tree::read();
    let mut problems = Vec::new();
    for edge in &EDGES {
        for from in edge.from {
            let there = !tree.below(from).is_empty();
            let seen = tree.files.iter().any(|f| f.path.starts_with(from) && edge.covers(&f.path));
            assert!(seen || !there, "{from} exists but the rule saw no source file in it: {}", edge.why);
        }
        let files = tree.files.iter().filter(|file| edge.covers(&file.path));
        problems.extend(files.flat_map(|file| edge.problems(file)));
    }
    assert_none("a part that imports only its neighbours can be understood and replaced alone", problems);
}

#[test]
fn a_forbidden_import_is_caught_and_its_tests_are_not() {
    let breaches = |path: &str, text: &str| {
        let file = TextFile::sample(path, text);
        EDGES.iter().filter(|e| e.covers(path)).flat_map(|e| e.problems(&file)).count()
    };
    assert_eq!(breaches("dispatcher/src/queue/state.rs", "//! A.\nuse redis::Client;"), 1);
    assert_eq!(breaches("dispatcher/src/queue/redis/mod.rs", "use redis::Client;"), 0);
    assert_eq!(breaches("dispatcher/src/queue/redis/mod.rs", "use backhaul_proto::Task;"), 1);
    assert_eq!(breaches("dispatcher/src/session/driver.rs", "fn f() { let c = redis::cmd(\"GET\"); }"), 1);
    assert_eq!(breaches("worker/src/transfer/plan.rs", "// no tonic::Status here\n"), 0);
    assert_eq!(breaches("worker/src/transfer/plan.rs", "type E = tonic::Status;"), 1);
    assert_eq!(breaches("worker/src/link/state.rs", "use aws_sdk_s3::Client;"), 1);
    assert_eq!(breaches("worker/src/main.rs", "use backhaul_dispatcher::app;"), 1);
    assert_eq!(breaches("dispatcher/src/queue/id.rs", "#[cfg(test)]\nmod tests { use redis::A; }"), 0);
    assert_eq!(breaches("dispatcher/src/queue/id/tests.rs", "use redis::A;"), 0);
}
