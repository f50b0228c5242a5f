//! What must hold between objects, and is no schema's to say. A rule is a function from what was rendered to its problems; each is
//! held against all that is shipped, and against an overlay that was broken on purpose.

mod hardening;
mod identity;
mod lifetime;
mod references;
mod tokens;
mod traffic;
mod wiring;

use serde_json::Value;

use crate::render::{self, Manifests};

pub(crate) type Problems = Vec<String>;

/// Fails with all problems that the rule finds in anything that is shipped.
#[track_caller]
fn holds(rule: fn(&Manifests) -> Problems) {
    for manifests in render::all() {
        assert_eq!(rule(&manifests), Problems::new(), "{}", manifests.name);
    }
}

/// Fails unless the rule finds something wrong in `manifests` after each of the changes: kind, start of a name, where, and what to
/// put there (null takes away).
#[track_caller]
fn catches(rule: fn(&Manifests) -> Problems, manifests: &Manifests, changes: &[(&str, &str, &str, Value)]) {
    for (kind, name, at, value) in changes {
        let mut broken = manifests.clone();
        set(&mut broken, kind, name, at, value.clone());
        let found = rule(&broken);
        assert!(!found.is_empty(), "{at} = {value} of {kind} {name} was not noticed");
    }
}

/// Puts a value into the object of that kind whose name is `name` and perhaps a hash.
#[track_caller]
fn set(manifests: &mut Manifests, kind: &str, name: &str, at: &str, value: Value) {
    let is_it = |object: &&mut Value| {
        object["kind"] == kind
            && object["metadata"]["name"].as_str().is_some_and(|n| n == name || is_hashed(n, name))
    };
    let object = manifests.objects.iter_mut().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"));
    let (parent, key) = at.rsplit_once('/').expect("a pointer has a slash");
    let key = key.replace("~1", "/");
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{kind} {name} has nothing at {at}"));
    if let Some(list) = parent.as_array_mut() {
        list[key.parse::<usize>().expect("an index")] = value;
    } else if let Some(fields) = parent.as_object_mut() {
        if value.is_null() {
            fields.remove(&key);
        } else {
            fields.insert(key, value);
        }
    } else {
        panic!("{kind} {name}: {at} is in neither a list nor an object");
    }
}

fn is_hashed(name: &str, plain: &str) -> bool {
    name.strip_prefix(plain).and_then(|rest| rest.strip_prefix('-')).is_some_and(|hash| hash.len() == 10)
}
