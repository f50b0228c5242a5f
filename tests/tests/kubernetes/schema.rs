//! The published schemas, strictly: an unknown field is a mistake, and an unknown kind must be one that [`custom`](crate::custom) knows.

use std::fs;

use crate::{
    custom,
    render::{self, Manifests, deploy, run, tool},
};

/// Oldest and newest minor version of Kubernetes that the manifests are for.
const SUPPORTED: [&str; 2] = ["1.32", "1.37"];

/// One object after the other, because the command line stops at the first that is wrong and only warns of kinds without a schema.
const CHECK: &str = "
import sys, yaml
import kubernetes_validate as kv
file, versions, custom = sys.argv[1], sys.argv[2].split(','), sys.argv[3].split(',')
for d in filter(None, yaml.safe_load_all(open(file))):
    if d['apiVersion'] + '/' + d['kind'] in custom:
        continue
    for v in versions:
        try:
            kv.validate(d, v, strict=True)
        except Exception as e:
            path = '.'.join(str(p) for p in getattr(e, 'path', None) or [])
            print(v, d['kind'], d['metadata']['name'], path, getattr(e, 'message', None) or repr(e))
";

/// Problems of a YAML text, a line each.
fn problems(yaml: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), yaml).expect("a temporary file can be written");
    let mut check = tool("venv/bin/python");
    check.args(["-c", CHECK]).arg(file.path()).arg(SUPPORTED.join(",")).arg(custom::KINDS.join(","));
    run(&mut check).expect("the validator runs").lines().map(str::to_owned).collect()
}

#[test]
fn everything_fits_the_schemas_of_the_oldest_and_the_newest_kubernetes() {
    for Manifests { name, yaml, objects } in render::all() {
        assert!(!objects.is_empty(), "{name} renders nothing");
        assert_eq!(problems(&yaml), Vec::<String>::new(), "{name}");
        assert_eq!(custom::problems(&objects), Vec::<String>::new(), "{name}");
    }
    for name in ["single-machine/backhaul.yaml", "kubernetes/components/tokens/caller.yaml"] {
        let text = fs::read_to_string(deploy().join(name)).expect("a file of the repository");
        assert_eq!(problems(&text), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_wrong_type_a_misspelt_field_and_an_unknown_kind_are_caught() {
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  {spec}\n");
    assert_eq!(problems(&service("ports: [{port: 80}]")), Vec::<String>::new());
    for (yaml, why) in [
        (service("ports: [{port: many}]"), "a wrong type"),
        (service("port: [{port: 80}]"), "a misspelt field"),
        (service("ports: [{port: 80}]").replace("v1", "v2"), "an unknown kind"),
    ] {
        assert_eq!(problems(&yaml).len(), SUPPORTED.len(), "{why}: {:?}", problems(&yaml));
    }
}
