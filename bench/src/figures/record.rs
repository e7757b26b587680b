//! All that a run of `compare --figure` has found, kept in files as it grows.
//!
//! After each figure the files are written anew, so that a long run that ends early leaves what it had. A figure that fails
//! does not keep the others from being measured; it stands in the files with what went wrong, and the run fails at its end.

use std::path::Path;

use serde::Serialize;

use super::{Figure, Verdict, markdown, reopen};
use crate::about::{About, Report};
use crate::report::write_json;
use crate::{Fault, Result};

/// A figure that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    figure: Figure,
    reason: String,
}

/// What has been found so far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Record {
    verdicts: Vec<Verdict>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
}

impl Record {
    /// Takes what came of a figure.
    pub(crate) fn add(&mut self, figure: Figure, measured: Result<Verdict>) {
        match measured {
            Ok(verdict) => self.verdicts.push(verdict),
            Err(fault) => self.failures.push(Failure {
                figure,
                reason: fault.to_string(),
            }),
        }
    }

    /// The table of figures, and the rule by which it judges.
    pub(crate) fn table(&self) -> String {
        let mut text = markdown(&self.verdicts);
        for Failure { figure, reason } in &self.failures {
            text += &format!("\n{figure:?} FAILED: {reason}\n");
        }
        text
    }

    /// Everything in Markdown: what it was measured with, the table of figures, and the tables behind each.
    pub(crate) fn markdown(&self, about: &About) -> String {
        let mut text = format!(
            "Measured by `mailring-bench compare`: {}.\n\
             A ratio is the median of the ratios within each round, with the least and the most in brackets.\n\n{}",
            about.line(),
            self.table()
        );
        for verdict in &self.verdicts {
            for standing in &verdict.standings {
                text += &format!("\n### {}\n\n{}", standing.title, standing.table());
            }
            if !verdict.reopenings.is_empty() {
                let table = reopen::reopenings_table(&verdict.reopenings);
                text += &format!("\n### {}\n\n{table}", verdict.work);
            }
        }
        // A line below a table would be a row of it.
        text.replace("|\nraw fdatasync", "|\n\nraw fdatasync")
    }

    /// Writes the files that were asked for.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub(crate) fn write(
        &self,
        about: &About,
        json: Option<&Path>,
        markdown: Option<&Path>,
    ) -> Result<()> {
        if let Some(path) = json {
            let result = self;
            write_json(path, &Report { about, result })?;
        }
        markdown.map_or(Ok(()), |path| {
            Ok(std::fs::write(path, self.markdown(about))?)
        })
    }

    /// # Errors
    ///
    /// If a figure could not be measured.
    pub(crate) fn end(self) -> Result<()> {
        match self.failures.len() {
            0 => Ok(()),
            some => Err(Fault::from(format!("{some} figures could not be measured"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Lab;
    use std::sync::Arc;

    #[test]
    fn a_figure_that_fails_is_told_and_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
        let about = About::of(&Lab::new(dir.path(), runtime, 5, 1, 4));
        let mut record = Record::default();
        record.add(Figure::Lock, Err(Fault::from("no redis")));
        let verdict = Verdict {
            figure: Figure::Space,
            work: "bytes".to_owned(),
            reference: "raw".to_owned(),
            goal: "1.15".to_owned(),
            measured: "1.10".to_owned(),
            reached: Some(true),
            standings: Vec::new(),
            reopenings: Vec::new(),
        };
        record.add(Figure::Space, Ok(verdict));
        let (json, text) = (dir.path().join("all.json"), dir.path().join("all.md"));
        record.write(&about, Some(&json), Some(&text)).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(json["verdicts"][0]["measured"], "1.10");
        assert_eq!(json["failures"][0]["reason"], "no redis");
        assert_eq!(json["about"]["rounds"], 5);
        let text = std::fs::read_to_string(text).unwrap();
        for words in [
            "5 rounds",
            "| bytes | raw | 1.15 | 1.10 | yes |",
            "Lock FAILED: no redis",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(record.end().is_err());
    }
}
