//! A replay on a stage, for tests: the real state, update, view, workers' work and lake, without threads and
//! without a terminal.

use std::path::Path;
use std::sync::Arc;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::{Cmd, Msg, Start, State};
use crate::commands::Keymap;
use crate::fixture::{self, Company};
use crate::key::Key;
use crate::source::{LakeSource, Source};
use crate::theme::Theme;
use crate::update::update;
use crate::worker::Worker;

/// The stage.
pub struct Stage {
    pub state: State,
    pub source: Arc<dyn Source>,
    worker: Worker,
    /// Commands that were given and not yet carried out.
    pub waiting: Vec<Cmd>,
}

/// A company's lake and a stage before it.
pub struct CompanyStage {
    pub stage: Stage,
    pub company: Company,
    pub runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub fn open(directory: &Path) -> Arc<dyn Source> {
    Arc::new(LakeSource::open(directory.to_str().unwrap(), Some(fixture::tenant())).unwrap())
}

impl Stage {
    pub fn new(source: Arc<dyn Source>, size: (u16, u16)) -> Self {
        let (state, commands) = State::new(Start {
            lake: "lake".into(),
            theme: Theme { color: true, ascii: false },
            keymap: Keymap::default(),
            saved: [("bulk".to_owned(), "rows>10k".to_owned())].into(),
            max_sessions: 1000,
            size,
            wall_ns: fixture::T0 + 3600 * fixture::SECOND,
        });
        let worker = Worker::inline(source.clone());
        let mut stage = Self { state, source, worker, waiting: commands };
        stage.settle();
        stage
    }

    /// Carries out everything that waits, and what follows from it.
    pub fn settle(&mut self) {
        while !self.waiting.is_empty() {
            for command in std::mem::take(&mut self.waiting) {
                for msg in self.worker.answers_to(command) {
                    self.waiting.extend(update(&mut self.state, msg));
                }
            }
        }
    }

    /// A message and all that follows.
    pub fn tell(&mut self, msg: Msg) {
        self.waiting.extend(update(&mut self.state, msg));
        self.settle();
    }

    /// Keys, written with blanks between them.
    pub fn keys(&mut self, keys: &str) {
        for key in keys.split(' ') {
            self.tell(Msg::Key(Key::parse(key).unwrap_or_else(|| panic!("{key} is no key"))));
        }
    }

    /// Text, character by character.
    pub fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            self.tell(Msg::Key(Key {
                code: crossterm::event::KeyCode::Char(c),
                ctrl: false,
                alt: false,
                shift: false,
            }));
        }
    }

    /// Lets the clock run to `now_ns`.
    pub fn tick(&mut self, now_ns: i64) {
        self.state.now_ns = now_ns;
        self.tell(Msg::Tick);
    }

    /// What is drawn.
    pub fn draw(&self) -> Buffer {
        let (width, height) = self.state.size;
        let area = Rect::new(0, 0, width, height);
        let mut buf = Buffer::empty(area);
        crate::view::draw(&self.state, &mut buf, area);
        buf
    }

    /// The lines that are drawn.
    pub fn lines(&self) -> Vec<String> {
        lines(&self.draw())
    }

    /// The lines that are drawn, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }
}

impl CompanyStage {
    pub fn new(size: (u16, u16)) -> Self {
        let runtime = runtime();
        let dir = tempfile::tempdir().unwrap();
        let company = runtime.block_on(Company::record(dir.path()));
        let stage = Stage::new(open(dir.path()), size);
        Self { stage, company, runtime, dir }
    }
}

/// The lines of a buffer.
pub fn lines(buf: &Buffer) -> Vec<String> {
    let width = usize::from(buf.area.width.max(1));
    buf.content
        .chunks(width)
        .map(|row| row.iter().map(|c| c.symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

/// Whether text holds anything that a terminal would act upon, line breaks apart.
pub fn is_clean(text: &str) -> bool {
    !text.chars().any(|c| c != '\n' && bodycam_record::shown::is_hostile(c))
}
