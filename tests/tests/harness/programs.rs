//! Programs of this repository are found, up to date, and free of the settings of whoever runs the tests.

use backhaul_tests::{process::Process, programs::program};
use tempfile::TempDir;

#[tokio::test]
async fn a_program_of_this_repository_is_found_and_runs() {
    let folder = TempDir::new().unwrap();
    let mut command = program("backhaul").unwrap();
    let mut process =
        Process::start("backhaul", command.arg("--version"), &folder.path().join("log")).unwrap();
    assert!(process.wait().await.unwrap().success());
}

#[test]
fn a_program_that_does_not_exist_is_named_in_the_error() {
    let told = program("backhaul-nothing").unwrap_err().to_string();
    assert!(told.contains("backhaul-nothing") && told.contains("make build"), "{told}");
}
