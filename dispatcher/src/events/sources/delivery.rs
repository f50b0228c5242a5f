//! How events of a source get here: what its settings must say of that, and the secrets that they point to.

use std::path::{Path, PathBuf};

use backhaul_runtime::{address::AddressRule, settings_file};
use http::Uri;
use serde::Deserialize;

use super::{Delivery, MAX_FILE_BYTES, StreamOptions, Tokens};
use crate::{
    events::{
        parse::Form,
        pull::sqs::client::{QueueCredentials, QueueOptions, check_file},
    },
    queue::redis::is_server,
};

/// Shortest token: 128 bits in base64.
const MIN_TOKEN_BYTES: usize = 22;
/// Most readers of a queue in one dispatcher.
const MOST_READERS: usize = 16;

/// The settings of a source that say it.
pub(super) struct RawDelivery {
    pub(super) token_file: Option<PathBuf>,
    pub(super) sns_topic: Option<String>,
    pub(super) redis_stream: Option<RawStream>,
    pub(super) sqs: Option<RawQueue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStream {
    url_file: PathBuf,
    stream: String,
    #[serde(default = "default_group")]
    group: String,
    #[serde(default = "default_field")]
    field: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQueue {
    url: String,
    region: String,
    credentials: RawCredentials,
    #[serde(default = "default_readers")]
    readers: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawCredentials {
    Default,
    File(PathBuf),
}

fn default_group() -> String {
    "backhaul".into()
}

fn default_field() -> String {
    "event".into()
}

const fn default_readers() -> usize {
    1
}

/// Reads and checks them; `add` is told what is wrong with which setting.
pub(super) fn delivery(form: Form, raw: RawDelivery, add: &mut dyn FnMut(&str, &str)) -> Option<Delivery> {
    let RawDelivery { token_file, sns_topic, redis_stream, sqs } = raw;
    if let Some(topic) = &sns_topic
        && !is_topic(topic)
    {
        add(".sns_topic", "must be the ARN of a topic");
    }
    match (form, token_file, sns_topic, redis_stream, sqs) {
        (Form::Sns, None, topic, None, Some(raw)) => {
            queue(raw, add).map(|queue| Delivery::Sqs { queue, topic })
        }
        (Form::Sns, None, Some(topic), None, None) => Some(Delivery::Topic(topic)),
        (Form::Sns, ..) => {
            add("", "the form sns needs sns_topic to know who sends, or sqs, or both, and nothing else");
            None
        }
        (_, None, None, None, Some(raw)) => queue(raw, add).map(|queue| Delivery::Sqs { queue, topic: None }),
        (_, Some(file), None, None, None) => match tokens(&file) {
            Ok(tokens) => Some(Delivery::Token(tokens)),
            Err(what) => {
                add(".token_file", &what);
                None
            }
        },
        (_, None, None, Some(raw), None) => stream(raw, add).map(Delivery::RedisStream),
        _ => {
            add("", "needs exactly one of token_file, redis_stream and sqs");
            None
        }
    }
}

fn is_topic(arn: &str) -> bool {
    let parts: Vec<&str> = arn.split(':').collect();
    matches!(parts.as_slice(), ["arn", _, "sns", region, account, name]
        if ![region, account, name].iter().any(|part| part.is_empty()))
}

fn stream(raw: RawStream, add: &mut dyn FnMut(&str, &str)) -> Option<StreamOptions> {
    let RawStream { url_file, stream, group, field } = raw;
    if [&stream, &group, &field].iter().any(|name| name.is_empty()) {
        add(".redis_stream", "a name is empty");
    }
    match secret(&url_file) {
        Ok(url) if is_server(url.trim()) => {
            return Some(StreamOptions { url: url.trim().to_owned(), stream, group, field });
        }
        Ok(_) => add(".redis_stream.url_file", "the file holds no URL of one Redis server"),
        Err(what) => add(".redis_stream.url_file", &what),
    }
    None
}

fn queue(raw: RawQueue, add: &mut dyn FnMut(&str, &str)) -> Option<QueueOptions> {
    let RawQueue { url, region, credentials, readers } = raw;
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        add(".sqs.region", "must be the name of a region, such as eu-west-1");
    }
    if !(1..=MOST_READERS).contains(&readers) {
        add(".sqs.readers", "must be 1 to 16");
    }
    let credentials = match credentials {
        RawCredentials::Default => QueueCredentials::Default,
        RawCredentials::File(path) => {
            let checked = absolute(&path).and_then(|()| check_file(&path));
            if let Err(what) = checked {
                add(".sqs.credentials.file", &what);
            }
            QueueCredentials::File(path)
        }
    };
    let Some(endpoint) = endpoint(&url) else {
        add(
            ".sqs.url",
            "must be the URL of a queue, such as https://sqs.eu-west-1.amazonaws.com/111122223333/uploads",
        );
        return None;
    };
    let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(ToOwned::to_owned));
    if let Err(why) = AddressRule::default().check_host(&host.unwrap_or_default()) {
        add(".sqs.url", &why.to_string());
    }
    Some(QueueOptions { queue_url: url, endpoint, region, credentials, readers })
}

/// Where requests for a queue go: scheme and host of its URL.
fn endpoint(queue_url: &str) -> Option<String> {
    let url: Uri = queue_url.parse().ok()?;
    let (scheme, authority) = (url.scheme_str()?, url.authority()?.as_str());
    let fits = matches!(scheme, "https" | "http")
        && !authority.contains('@')
        && url.query().is_none()
        && !url.path().trim_matches('/').is_empty();
    fits.then(|| format!("{scheme}://{authority}"))
}

/// One token a line.
fn tokens(file: &Path) -> Result<Tokens, String> {
    let text = secret(file)?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => Err("the file holds no token".into()),
        [_, _, _, ..] => Err("the file holds more than two tokens".into()),
        tokens if tokens.iter().any(|token| token.len() < MIN_TOKEN_BYTES) => {
            Err(format!("a token has at least {MIN_TOKEN_BYTES} characters"))
        }
        tokens if tokens.iter().any(|token| !token.bytes().all(|b| b.is_ascii_graphic())) => {
            Err("a token has only visible ASCII characters".into())
        }
        tokens => Ok(Tokens::new(tokens.iter().copied())),
    }
}

fn secret(file: &Path) -> Result<String, String> {
    absolute(file)?;
    settings_file::read("secret", file, MAX_FILE_BYTES).map_err(|error| error.to_string())
}

fn absolute(file: &Path) -> Result<(), String> {
    if file.is_absolute() { Ok(()) } else { Err("must be an absolute path".into()) }
}
