//! `hive artifact`: what builds produced, fetched from any node and verified before it gets its name.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::args::ArtifactVerb;
use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use super::text::{bytes, clean};
use super::{queue, render};
use crate::api::{ArtifactView, ErrorCode};

/// `hive artifact …`
pub(crate) async fn artifact(ui: &Ui, client: &Client, verb: ArtifactVerb) -> Outcome {
    match verb {
        ArtifactVerb::List { job } => {
            let id = queue::resolve(client, &job).await?;
            let answer = client.get::<Vec<ArtifactView>>(&format!("/api/v2/jobs/{id}/artifacts")).await?;
            ui.answer(&answer, |artifacts| render::jobs::artifacts(artifacts, ui.paint))?;
            Ok(0)
        }
        ArtifactVerb::Get { job, name, output, force } => {
            get(ui, client, &job, name.as_deref(), (output.as_deref(), force)).await
        }
    }
}

async fn get(
    ui: &Ui,
    client: &Client,
    job: &str,
    name: Option<&str>,
    (output, force): (Option<&Path>, bool),
) -> Outcome {
    let id = queue::resolve(client, job).await?;
    let all = client.get::<Vec<ArtifactView>>(&format!("/api/v2/jobs/{id}/artifacts")).await?.data;
    let wanted: Vec<&ArtifactView> =
        all.iter().filter(|artifact| name.is_none_or(|name| artifact.name == name)).collect();
    if wanted.is_empty() {
        let what = name.map_or_else(|| "no artifacts".to_owned(), |name| format!("no artifact {name:?}"));
        return Err(Failure::new(
            ErrorCode::NotFound,
            format!("job {id} has {what}"),
            format!("see: hive artifact list {id}"),
        ));
    }
    let mut places = Vec::new();
    for artifact in &wanted {
        let path = destination(&artifact.name, wanted.len() == 1 && name.is_some(), output)?;
        // Before the first byte travels: nothing of somebody's is lost half-way.
        if !force && path.symlink_metadata().is_ok() {
            let message = format!("{} is there already and is not overwritten", path.display());
            return Err(Failure::new(ErrorCode::Conflict, message, "add --force, or another place with --output"));
        }
        places.push((path, *artifact));
    }
    let mut written = Vec::new();
    for (path, artifact) in places {
        fetch(ui, client, artifact, &path).await?;
        written.push((path, artifact));
    }
    let data: Vec<_> = written
        .iter()
        .map(|(path, artifact)| json!({ "name": artifact.name, "path": path, "sha256": artifact.sha256, "size": artifact.size }))
        .collect();
    ui.data(&data, || {
        written
            .iter()
            .map(|(path, artifact)| format!("{}  {}\n", clean(&path.to_string_lossy()), bytes(artifact.size)))
            .collect()
    })?;
    Ok(0)
}

/// Where an artifact goes: into a directory that exists or ends with a slash, else `output` is the file. The name comes from
/// another machine and never leaves the directory.
pub(super) fn destination(name: &str, single: bool, output: Option<&Path>) -> Result<PathBuf, Failure> {
    let harmless = !name.is_empty() && name != "." && name != ".." && name.len() <= 255 && !name.contains(['/', '\0']);
    if !harmless || name.chars().any(char::is_control) {
        return Err(Failure::internal(
            format!("the artifact name {name:?} is not a file name"),
            "fetch it by its digest",
        ));
    }
    let output = output.unwrap_or(Path::new("."));
    let as_directory = !single || output.is_dir() || output.to_string_lossy().ends_with('/');
    Ok(if as_directory { output.join(name) } else { output.to_owned() })
}

pub(super) async fn fetch(ui: &Ui, client: &Client, artifact: &ArtifactView, path: &Path) -> Result<(), Failure> {
    let local = |error: io::Error| {
        Failure::internal(
            format!("cannot write {}: {error}", path.display()),
            "see disk and rights there, or give another --output",
        )
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(local)?;
    let mut file = tempfile::Builder::new().prefix(".hive-").tempfile_in(directory).map_err(local)?;
    let source = format!("/api/v2/jobs/{}/artifacts/{}", artifact.job, segment(&artifact.name));
    let mut stream = client.file(&source, artifact.size).await?;
    let (mut digest, mut size) = (Sha256::new(), 0u64);
    loop {
        let piece = stream.next().await.map_err(|error| {
            let message = format!("{} broke off after {}: {error}", clean(&artifact.name), bytes(size));
            Failure::new(ErrorCode::Unreachable, message, "try again")
        })?;
        let Some(piece) = piece else { break };
        size += piece.len() as u64;
        if size > artifact.size {
            break;
        }
        digest.update(&piece);
        file.write_all(&piece).map_err(local)?;
        ui.show_progress(&format!("{}: {} of {}", clean(&artifact.name), bytes(size), bytes(artifact.size)));
    }
    ui.clear_progress();
    let found: [u8; 32] = digest.finalize().into();
    if size != artifact.size || found != artifact.sha256.0 {
        let message = format!(
            "{} is not what the build produced (size or SHA-256 differ); nothing was kept",
            clean(&artifact.name)
        );
        return Err(Failure::internal(message, "try again through another node with --url"));
    }
    file.as_file().sync_all().map_err(local)?;
    set_readable(file.as_file()).map_err(local)?;
    file.persist(path).map_err(|error| local(error.error))?;
    Ok(())
}

/// Temporary files are private; what was asked for should look like any other new file.
fn set_readable(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_other_machines_never_leave_the_directory() {
        for bad in ["../x", "/etc/passwd", "..", ".", "", "a\0b", "a/b", "x\u{1b}y"] {
            assert!(destination(bad, true, None).is_err(), "{bad:?}");
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let inside = |single, output: &Path| destination("x.deb", single, Some(output)).expect("good");
        assert_eq!(inside(true, directory.path()), directory.path().join("x.deb"));
        assert_eq!(inside(true, &directory.path().join("y.deb")), directory.path().join("y.deb"));
        assert_eq!(inside(false, &directory.path().join("new")), directory.path().join("new/x.deb"));
        assert_eq!(inside(true, Path::new("new/")), Path::new("new/x.deb"));
    }
}
