//! The text format as a tree, before any field has a meaning.

use super::Position;
use super::lexer::{Lexer, Token};
use crate::error::ConfigError;

/// Messages and lists may nest this deep; real configurations stay below 8.
const MAX_DEPTH: usize = 64;

/// `name: value`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Position,
    pub(super) name: String,
    pub(super) node: Node,
}

/// A value of any kind.
#[derive(Debug)]
pub(super) enum Node {
    Scalar(Position, Scalar),
    Message(Position, Vec<Entry>),
    List(Position, Vec<Node>),
}

impl Node {
    pub(super) fn at(&self) -> Position {
        match self {
            Node::Scalar(at, _) | Node::Message(at, _) | Node::List(at, _) => *at,
        }
    }
}

/// A value without parts.
#[derive(Debug)]
pub(super) enum Scalar {
    /// Joined literals; any bytes.
    Text(Vec<u8>),
    /// As written, with its sign.
    Number(String),
    /// An enum value, a Boolean, `inf`, `nan`, with its sign.
    Name(String),
}

/// The whole text.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) entries: Vec<Entry>,
    pub(super) warnings: Vec<String>,
}

/// Parses the whole text. The recursion is counted and stops at [`MAX_DEPTH`].
pub(super) fn parse(text: &str) -> Result<Tree, ConfigError> {
    let mut lexer = Lexer::new(text);
    let ahead = lexer.next()?;
    let mut parser = Parser {
        lexer,
        ahead,
        warnings: Vec::new(),
    };
    let entries = parser.entries(&Token::End, 0)?;
    Ok(Tree {
        entries,
        warnings: parser.warnings,
    })
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: (Position, Token),
    warnings: Vec<String>,
}

impl Parser<'_> {
    fn take(&mut self) -> Result<(Position, Token), ConfigError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.ahead, next))
    }

    fn take_if(&mut self, mark: char) -> Result<bool, ConfigError> {
        let here = self.ahead.1 == Token::Mark(mark);
        if here {
            self.take()?;
        }
        Ok(here)
    }

    /// Fields up to and including `end`.
    fn entries(&mut self, end: &Token, depth: usize) -> Result<Vec<Entry>, ConfigError> {
        let mut entries = Vec::new();
        loop {
            let (at, token) = self.take()?;
            match token {
                token if token == *end => return Ok(entries),
                Token::Name(name) => {
                    let colon = self.take_if(':')?;
                    let node = self.value(colon, depth)?;
                    entries.push(Entry { at, name, node });
                    if !self.take_if(',')? {
                        self.take_if(';')?;
                    }
                }
                Token::End => {
                    return Err(ConfigError::text(
                        at,
                        "the text ends inside a message; `}` is missing",
                    ));
                }
                other => {
                    return Err(ConfigError::text(
                        at,
                        format!("expected a field name, got {}", show(&other)),
                    ));
                }
            }
        }
    }

    fn value(&mut self, colon: bool, depth: usize) -> Result<Node, ConfigError> {
        let (at, token) = self.take()?;
        if depth >= MAX_DEPTH {
            return Err(ConfigError::text(
                at,
                format!("nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        match token {
            Token::Mark('{') => Ok(Node::Message(at, self.entries(&Token::Mark('}'), depth + 1)?)),
            Token::Mark('<') => Ok(Node::Message(at, self.entries(&Token::Mark('>'), depth + 1)?)),
            Token::Mark('[') => Ok(Node::List(at, self.list(depth + 1)?)),
            other if !colon => Err(ConfigError::text(
                at,
                format!("expected `:` or `{{` after the field name, got {}", show(&other)),
            )),
            token => Ok(Node::Scalar(at, self.scalar(at, token)?)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ConfigError> {
        let mut nodes = Vec::new();
        if self.take_if(']')? {
            return Ok(nodes);
        }
        loop {
            nodes.push(self.value(true, depth)?);
            let (at, token) = self.take()?;
            match token {
                Token::Mark(']') => return Ok(nodes),
                Token::Mark(',') => {
                    if self.take_if(']')? {
                        self.warnings
                            .push(format!("{at}: trailing comma in a list; Triton refuses it"));
                        return Ok(nodes);
                    }
                }
                other => {
                    return Err(ConfigError::text(
                        at,
                        format!("expected `,` or `]` in a list, got {}", show(&other)),
                    ));
                }
            }
        }
    }

    fn scalar(&mut self, at: Position, token: Token) -> Result<Scalar, ConfigError> {
        match token {
            Token::Text(mut bytes) => {
                while let Token::Text(more) = &self.ahead.1 {
                    bytes.extend_from_slice(more);
                    self.take()?;
                }
                Ok(Scalar::Text(bytes))
            }
            Token::Number(number) => Ok(Scalar::Number(number)),
            Token::Name(name) => Ok(Scalar::Name(name)),
            Token::Mark('-') => match self.take()?.1 {
                Token::Number(number) => Ok(Scalar::Number(format!("-{number}"))),
                Token::Name(name) => Ok(Scalar::Name(format!("-{name}"))),
                other => Err(ConfigError::text(
                    at,
                    format!("expected a number after `-`, got {}", show(&other)),
                )),
            },
            other => Err(ConfigError::text(
                at,
                format!("expected a value, got {}", show(&other)),
            )),
        }
    }
}

fn show(token: &Token) -> String {
    match token {
        Token::Name(word) | Token::Number(word) => format!("`{}`", word.chars().take(40).collect::<String>()),
        Token::Text(_) => "a string".to_owned(),
        Token::Mark(mark) => format!("`{mark}`"),
        Token::End => "the end of the text".to_owned(),
    }
}
