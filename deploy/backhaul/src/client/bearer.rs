//! A bearer token with each call, read anew each time: whoever issues tokens replaces the file long before the old one ends.
//!
//! Shows the token to nobody but the dispatcher, whose name the connection has proved.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor};

/// Adds the token; nothing, by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bearer(Option<Arc<PathBuf>>);

impl Bearer {
    /// The token in that file.
    pub(crate) fn of(file: &Path) -> Self {
        Self(Some(Arc::new(file.to_owned())))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let refuse = |why: &dyn std::fmt::Display| {
                Status::unauthenticated(format!("--token-file {}: {why}", file.display()))
            };
            let token = read(file).map_err(|error| refuse(&error))?;
            let value = Some(token.trim()).filter(|token| !token.is_empty());
            let value = value.and_then(|token| MetadataValue::try_from(format!("Bearer {token}")).ok());
            let mut value = value.ok_or_else(|| refuse(&"holds no token"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

fn read(file: &Path) -> io::Result<String> {
    /// Longer ones are refused by dispatchers.
    const MOST_BYTES: u64 = 8 * 1024;
    if fs::metadata(file)?.len() > MOST_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_for_each_call_and_what_is_none_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let mut bearer = Bearer::of(&file);
        assert_eq!(bearer.call(Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
        for token in ["first", "second"] {
            fs::write(&file, format!("{token}\n")).unwrap();
            let request = bearer.call(Request::new(())).unwrap();
            let value = request.metadata().get("authorization").unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(!format!("{bearer:?} {request:?}").contains(token));
        }
        for bad in ["", "\n", "two\nlines", "\u{0}"] {
            fs::write(&file, bad).unwrap();
            assert!(bearer.call(Request::new(())).unwrap_err().message().contains("holds no token"));
        }
        fs::write(&file, "x".repeat(10_000)).unwrap();
        assert!(bearer.call(Request::new(())).is_err());
        assert!(Bearer::default().call(Request::new(())).unwrap().metadata().is_empty());
    }
}
