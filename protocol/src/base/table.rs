//! Tables of cases in text files, for tests.
//!
//! A case begins with `case` and its name. Each line after it is a command, and after ` => ` what is expected of it. What
//! follows a `#` is a comment. Whoever reads a line names every word of it: one that is not known fails the test, with file
//! and line.

/// One case.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
}

/// A command and what is expected of it.
pub(crate) struct Line {
    file: &'static str,
    number: usize,
    words: Vec<String>,
    /// What is expected; `None` where nothing is.
    pub(crate) expected: Option<String>,
    read: usize,
}

/// All cases of a file, whose text this is.
pub(crate) fn cases(file: &'static str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let line = raw.split('#').next().unwrap_or_default().trim();
        let (command, expected) = match line.split_once("=>") {
            Some((command, expected)) => (command.trim(), Some(expected.trim().to_owned())),
            None => (line, None),
        };
        if let Some(name) = command.strip_prefix("case ") {
            cases.push(Case { name: name.trim().to_owned(), lines: Vec::new() });
        } else if !line.is_empty() {
            let words = command.split_whitespace().map(str::to_owned).collect();
            let line = Line { file, number: index + 1, words, expected, read: 0 };
            match cases.last_mut() {
                Some(case) => case.lines.push(line),
                None => line.fail("a line before the first case"),
            }
        }
    }
    assert!(!cases.is_empty(), "{file}: no cases");
    cases
}

impl Line {
    /// Fails the test here.
    pub(crate) fn fail(&self, why: &str) -> ! {
        panic!("{}", self.about(why));
    }

    fn about(&self, what: &str) -> String {
        format!("{}:{}: {what} (`{}`)", self.file, self.number, self.words.join(" "))
    }

    /// The next word, if there is one.
    pub(crate) fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.read).cloned();
        self.read += usize::from(word.is_some());
        word
    }

    /// The next word, which must be there.
    pub(crate) fn word(&mut self) -> String {
        self.next().unwrap_or_else(|| self.fail("a word is missing"))
    }

    /// The next word is this one.
    pub(crate) fn keyword(&mut self, keyword: &str) {
        if self.word() != keyword {
            self.fail(&format!("`{keyword}` is missing"));
        }
    }

    /// The next word is a number.
    pub(crate) fn number(&mut self) -> u64 {
        let word = self.word();
        word.parse().unwrap_or_else(|_| self.fail(&format!("`{word}` is no number")))
    }

    /// A word that nobody knows.
    pub(crate) fn unknown(&self, word: &str) -> ! {
        self.fail(&format!("unknown word `{word}`"))
    }

    /// Nothing is left over, and this is what came of it. What was expected otherwise is noted in `wrong`.
    pub(crate) fn check(&self, case: &str, got: &str, wrong: &mut Vec<String>) {
        if let Some(word) = self.words.get(self.read) {
            self.unknown(word);
        }
        let expected = self.expected.as_deref().unwrap_or("nothing");
        if expected != got {
            wrong.push(self.about(&format!("{case}: expected `{expected}`, got `{got}`")));
        }
    }
}

/// Fails with all lines that came out otherwise.
pub(crate) fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_is_read_to_its_end() {
    let mut case = cases("here", "# words\ncase two nodes # and a name\nsay 3 things => well  # or not\n").remove(0);
    assert_eq!((case.name.as_str(), case.lines.len()), ("two nodes", 1));
    let line = &mut case.lines[0];
    assert_eq!((line.word().as_str(), line.number(), line.word().as_str()), ("say", 3, "things"));
    assert_eq!(line.next(), None);
    let mut wrong = Vec::new();
    line.check("two nodes", "well", &mut wrong);
    assert!(wrong.is_empty());
    line.check("two nodes", "badly", &mut wrong);
    assert_eq!(wrong, ["here:3: two nodes: expected `well`, got `badly` (`say 3 things`)"]);
}

#[test]
#[should_panic(expected = "here:2: unknown word `loudly` (`say loudly`)")]
fn a_word_that_nobody_knows_fails_with_its_place() {
    let mut case = cases("here", "case one\nsay loudly").remove(0);
    assert_eq!(case.lines[0].word(), "say");
    case.lines[0].check("one", "nothing", &mut Vec::new());
}
