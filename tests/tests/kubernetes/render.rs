//! From a kustomization to the objects that `kubectl apply -k` would send, through the real kustomize. Must not know any rule.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use backhaul_tests::settings::profile_folder;
use serde_json::Value;

/// What one kustomization renders to.
#[derive(Debug, Clone)]
pub(crate) struct Manifests {
    /// Such as `overlays/prod`.
    pub(crate) name: String,
    /// As kustomize printed it.
    pub(crate) yaml: String,
    /// The same, parsed.
    pub(crate) objects: Vec<Value>,
}

/// What a component cannot be without. Tokens are for connections that somebody has secured.
const NEEDS: [(&str, &str); 1] = [("components/tokens", "components/cert-manager")];

/// All that is shipped: each overlay, and the one for development with each component alone, which shows that components do not lean on
/// each other but where they say so.
pub(crate) fn all() -> Vec<Manifests> {
    let overlays = folders("overlays").into_iter().map(|name| kustomize(&name, &manifests().join(&name)));
    overlays.chain(folders("components").iter().map(|component| with_component(component))).collect()
}

/// The overlay of that name.
pub(crate) fn overlay(name: &str) -> Manifests {
    let name = format!("overlays/{name}");
    kustomize(&name, &manifests().join(&name))
}

/// The overlay for development with a component, and with what that needs.
pub(crate) fn with_component(component: &str) -> Manifests {
    let needed = NEEDS.into_iter().filter(|(of, _)| *of == component).map(|(_, needed)| needed);
    let components: Vec<_> = needed.chain([component]).collect();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder in the target folder");
    let up = |name: &str| relative(folder.path(), &manifests().join(name));
    let listed: String = components.iter().map(|name| format!("  - {}\n", up(name))).collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: backhaul-dev\nresources:\n  - {}\n\
         components:\n{listed}",
        up("overlays/dev"),
    );
    fs::write(folder.path().join("kustomization.yaml"), text).expect("a file in a folder of our own");
    kustomize(&format!("overlays/dev with {component}"), folder.path())
}

/// The folder with everything for Kubernetes.
pub(crate) fn manifests() -> PathBuf {
    deploy().join("kubernetes")
}

/// The folder with everything for running Backhaul.
pub(crate) fn deploy() -> PathBuf {
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the repository");
    repository.join("deploy")
}

/// A program that `make setup` has installed, such as `bin/kubectl`.
pub(crate) fn tool(path: &str) -> Command {
    let target = profile_folder().expect("tests run from cargo's folder");
    let tools = target.parent().expect("a profile's folder is in the target folder").join("tools");
    let program = tools.join(path);
    assert!(program.exists(), "{} is missing: run `make setup`", program.display());
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end; what it said when it fails.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().expect("an installed tool can be started");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if status.success() {
        Ok(said(&stdout))
    } else {
        Err(format!("{command:?}: {}{}", said(&stdout), said(&stderr)))
    }
}

/// The documents of a YAML text.
pub(crate) fn documents(yaml: &Path) -> Vec<Value> {
    const TO_JSON: &str = "import json, sys, yaml; print(json.dumps([d for d in yaml.load_all(open(sys.argv[1]), yaml.CSafeLoader) if d]))";
    let json = run(tool("venv/bin/python").args(["-c", TO_JSON]).arg(yaml)).expect("it is YAML");
    serde_json::from_str(&json).expect("it is what json.dumps printed")
}

fn kustomize(name: &str, folder: &Path) -> Manifests {
    let yaml =
        run(tool("bin/kubectl").arg("kustomize").arg(folder)).unwrap_or_else(|said| panic!("{name}: {said}"));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), &yaml).expect("a temporary file can be written");
    Manifests { name: name.to_owned(), objects: documents(file.path()), yaml }
}

fn folders(of: &str) -> Vec<String> {
    let entries = fs::read_dir(manifests().join(of)).expect("a folder of the repository can be listed");
    let names = entries.map(|entry| entry.expect("a folder of the repository can be listed").file_name());
    let mut names: Vec<_> = names.map(|name| format!("{of}/{}", name.to_string_lossy())).collect();
    names.sort();
    assert!(!names.is_empty(), "{of} is empty, so its test proves nothing");
    names
}

/// `to`, seen from `from`: kustomize takes no absolute paths. Both exist.
fn relative(from: &Path, to: &Path) -> String {
    let real =
        |path: &Path| fs::canonicalize(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let up = "../".repeat(real(from).components().count() - 1);
    format!("{up}{}", real(to).strip_prefix("/").expect("a real path is absolute").display())
}
