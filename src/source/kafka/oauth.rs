//! Tokens for OAUTHBEARER: had from a file or a program each time that the client library wants one.
//!
//! The library asks when a client begins and when four fifths of a token's life have passed, from the thread that polls
//! the client: a program holds polling up for as long as it runs, which is why it has a time limit. When there is no
//! token to be had, the library reports that as a failed authentication and asks again after ten seconds; the token
//! before serves meanwhile, for as long as it lives.
//!
//! Tokens reach no log line and no error.

use std::error::Error;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::config::OauthToken;

/// How long a program may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any token: brokers take less by far. Bytes.
const OUTPUT_MAX: u64 = 64 << 10;
/// What a program says about its failure is shown up to this many characters.
const COMPLAINT_MAX: usize = 500;
/// How long a token lives that does not say so itself.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// Whose a token is that does not say so itself. It is for the client's own log lines; brokers look into the token.
const PRINCIPAL_DEFAULT: &str = "lagless";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the login wants a token, and the source has no `oauth_token`")]
    NotConfigured,
    #[error("`oauth_token`: {} cannot be read: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("`oauth_token`: cannot run {program}: {error}")]
    Start { program: String, error: io::Error },
    #[error("`oauth_token`: {program} did not end within {limit:?}")]
    TooSlow { program: String, limit: Duration },
    #[error("`oauth_token`: {program} failed ({status}): {complaint}")]
    Failed { program: String, status: String, complaint: String },
    #[error("`oauth_token`: {origin} gives no token: {flaw}")]
    NoToken { origin: String, flaw: &'static str },
    #[error("`oauth_token`: {origin} gives a token that has expired {} ago", humantime::format_duration(*ago))]
    Expired { origin: String, ago: Duration },
}

/// A token that can be used now.
///
/// # Errors
/// When it cannot be had, or is of no use.
pub(crate) fn token(from: Option<&OauthToken>) -> Result<OAuthToken, Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = from.ok_or(TokenError::NotConfigured)?;
    Ok(match from {
        OauthToken::File(file) => {
            let text = fs::read(file).map_err(|error| TokenError::File { file: file.clone(), error })?;
            usable(&text, &format!("file {}", file.display()), now)?
        }
        OauthToken::Command(command) => {
            let [program, arguments @ ..] = &command[..] else { return Err(TokenError::NotConfigured.into()) };
            let printed = run(program, arguments, COMMAND_TIMEOUT)?;
            usable(&printed, &format!("command {program}"), now)?
        }
    })
}

/// Looks into a token, if it is one that can be looked into.
fn usable(text: &[u8], origin: &str, now: Duration) -> Result<OAuthToken, TokenError> {
    let no_token = |flaw| TokenError::NoToken { origin: origin.to_owned(), flaw };
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(no_token("it is empty"));
    }
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if text.len() as u64 > OUTPUT_MAX || !text.iter().all(is_fit) {
        return Err(no_token("it holds more than a token; expected the token and nothing else"));
    }
    let token = String::from_utf8_lossy(text).into_owned();
    let claims = claims(&token).unwrap_or_default();
    let expires = match claims.exp {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| no_token("its \"exp\" is no time"))?,
        None => now + LIFETIME_DEFAULT,
    };
    if expires <= now {
        let ago = Duration::from_secs((now - expires).as_secs());
        return Err(TokenError::Expired { origin: origin.to_owned(), ago });
    }
    Ok(OAuthToken {
        token,
        principal_name: claims.sub.filter(|sub| !sub.contains('\0')).unwrap_or_else(|| PRINCIPAL_DEFAULT.to_owned()),
        lifetime_ms: i64::try_from(expires.as_millis()).unwrap_or(i64::MAX),
    })
}

/// What a JWT says of itself. It is not verified: that is the broker's business.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    /// Seconds since 1970.
    exp: Option<f64>,
    sub: Option<String>,
}

/// `None` for a token of another kind.
fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

/// What a program prints.
fn run(program: &str, arguments: &[String], limit: Duration) -> Result<Vec<u8>, TokenError> {
    let failed =
        |status: String, complaint: String| TokenError::Failed { program: program.to_owned(), status, complaint };
    // A thread of its own: whoever polls the client may do so within a runtime, where no other one can be waited for.
    let ran = thread::scope(|scope| scope.spawn(|| wait_for(program, arguments, limit)).join());
    let output = ran.map_err(|_| failed("lost".to_owned(), "its thread has ended".to_owned()))??;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.trim().chars().take(COMPLAINT_MAX).map(|c| if c.is_control() { ' ' } else { c });
        return Err(failed(output.status.to_string(), complaint.collect()));
    }
    Ok(output.stdout)
}

fn wait_for(program: &str, arguments: &[String], limit: Duration) -> Result<Output, TokenError> {
    let start = |error| TokenError::Start { program: program.to_owned(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    runtime.block_on(async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let running = async {
            // Both at once: a program that waits for room in one of them would never end.
            let (stdout, stderr) = tokio::try_join!(up_to_max(stdout), up_to_max(stderr))?;
            Ok(Output { status: child.wait().await?, stdout, stderr })
        };
        if let Ok(output) = tokio::time::timeout(limit, running).await {
            return output.map_err(start);
        }
        // It may have ended just now.
        let _ = child.kill().await;
        Err(TokenError::TooSlow { program: program.to_owned(), limit })
    })
}

/// Reads to the end, and keeps the beginning, one byte more than what is allowed.
async fn up_to_max(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(OUTPUT_MAX + 1).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn command(script: &str) -> OauthToken {
        OauthToken::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[track_caller]
    fn check_refused(from: &OauthToken, words: &[&str]) {
        let error = token(Some(from)).err().expect("no token").to_string();
        for word in words.iter().chain(&["`oauth_token`"]) {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    }

    #[test]
    fn a_jwt_says_how_long_it_lives_and_whose_it_is() {
        let text = jwt(r#"{"exp":1000060.5,"sub":"worker"}"#);
        let found = usable(format!("  {text}\r\n").as_bytes(), "it", NOW).unwrap();
        assert_eq!((found.token, &*found.principal_name, found.lifetime_ms), (text, "worker", 1_000_060_500));
    }

    #[test]
    fn a_token_that_says_nothing_lives_for_five_minutes() {
        for text in ["opaque", "a.b.c", &jwt("[]"), &jwt("{}"), &jwt("{\"exp\":\"soon\"}")] {
            let found = usable(text.as_bytes(), "it", NOW).unwrap();
            assert_eq!((&*found.principal_name, found.lifetime_ms), ("lagless", 1_000_300_000), "{text}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_shown() {
        let refused = |text: &[u8]| usable(text, "it", NOW).err().unwrap().to_string();
        assert!(refused(b" \n").contains("it is empty"));
        for text in [&b"hush hush"[..], b"\"hush\"", b"hush\0", &vec![b'a'; 70_000]] {
            let error = refused(text);
            assert!(error.contains("more than a token") && !error.contains("hush"), "{error}");
        }
        assert!(refused(jwt(r#"{"exp":999990}"#).as_bytes()).contains("expired 10s ago"));
        for exp in ["-1", "1e300"] {
            assert!(refused(jwt(&format!("{{\"exp\":{exp}}}")).as_bytes()).contains("no time"), "{exp}");
        }
    }

    #[test]
    fn a_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let from = OauthToken::File(file.clone());
        check_refused(&from, &["token cannot be read"]);
        for text in ["first\n", "second\n"] {
            fs::write(&file, text).unwrap();
            assert_eq!(token(Some(&from)).unwrap().token, text.trim());
        }
    }

    #[test]
    fn a_command_prints_the_token() {
        assert_eq!(token(Some(&command("echo of-command; echo to the log >&2"))).unwrap().token, "of-command");
    }

    #[test]
    fn a_command_that_fails_is_told_with_what_it_says() {
        check_refused(&command("echo no luck >&2; exit 3"), &["sh failed", "3", "no luck"]);
        check_refused(&command("kill -9 $$"), &["sh failed", "signal"]);
        check_refused(&command("true"), &["sh", "it is empty"]);
        check_refused(&command("yes | head -c 1000000"), &["more than a token"]);
        check_refused(&OauthToken::Command(vec!["/no/such/program".to_owned()]), &["/no/such/program"]);
    }

    #[test]
    fn a_command_that_does_not_end_is_not_waited_for() {
        let limit = Duration::from_millis(200);
        for endless in ["sleep 1000", "exec yes"] {
            let error = run("sh", &["-c".to_owned(), endless.to_owned()], limit).unwrap_err().to_string();
            assert!(error.contains("sh did not end within 200ms"), "{error}");
        }
    }

    #[test]
    fn a_command_may_be_run_within_a_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(async { token(Some(&command("echo t"))).unwrap().token }), "t");
    }

    #[test]
    fn without_a_source_of_tokens_there_is_none() {
        assert!(token(None).err().unwrap().to_string().contains("has no `oauth_token`"));
    }
}
