//! The XML itself: what is not well-formed, and where elements begin.

use std::ops::Range;

use roxmltree::{Document, Error, Node, ParsingOptions, TextPos};

use super::{
    diagnostic::{Diagnostic, Span},
    render::visible,
    source::SourceId,
};

/// More elements, attributes' owners and texts than this are not a network definition.
const NODES_LIMIT: u32 = 100_000;

/// The parser compares each attribute of an element with all others of it, which takes minutes
/// for a file full of them.
const ATTRIBUTES_LIMIT: usize = 256;

/// Parses a file's text. A document type definition is refused: it could define entities.
pub(super) fn parse<'a>(
    source: SourceId,
    text: &'a str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Document<'a>> {
    if let Err(diagnostic) = few_attributes(source, text) {
        diagnostics.push(*diagnostic);
        return None;
    }
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: NODES_LIMIT, ..Default::default() };
    Document::parse_with_options(text, options)
        .map_err(|error| diagnostics.push(explain(source, text, &error)))
        .ok()
}

/// The start tag of an element.
pub(super) fn start_tag(source: SourceId, node: Node) -> Span {
    let range = node.range();
    let text = node.document().input_text();
    let tag = text.get(range.clone()).unwrap_or_default();
    Span::new(source, range.start..range.start + tag_length(tag).unwrap_or(tag.len()))
}

/// The length of the tag that `text` starts with; none if it has no end.
fn tag_length(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

fn explain(source: SourceId, text: &str, error: &Error) -> Diagnostic {
    let span = Span::at(source, offset(text, error.pos()));
    let diagnostic = |message: &str| Diagnostic::error(span.clone(), message);
    match error {
        Error::NoRootNode | Error::UnclosedRootNode | Error::UnexpectedEndOfStream => {
            unfinished(source, text)
        }
        Error::UnexpectedCloseTag(expected, actual, _) => {
            close_tag(source, text, &span, expected, actual)
        }
        Error::DtdDetected => Diagnostic::error(
            Span::at(source, text.find("<!DOCTYPE").unwrap_or_default()),
            "a document type definition is not accepted",
        )
        .help("remove the `<!DOCTYPE ...>`; libvirt's own files have none"),
        Error::UnknownEntityReference(name, _) => {
            diagnostic(&format!("unknown entity `&{};`", visible(name)))
                .help("XML knows &lt; &gt; &amp; &quot; &apos; and numbers such as &#228;")
        }
        Error::MalformedEntityReference(_) => diagnostic("`&` begins an entity, but none is here")
            .help("for the character itself write &amp;"),
        Error::DuplicatedAttribute(name, _) => {
            diagnostic(&format!("attribute `{}` is given twice", visible(name)))
                .help("keep one of the two")
        }
        Error::UnknownNamespace(prefix, _) => {
            let help = if prefix == "dnsmasq" {
                "write <network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>"
                    .to_owned()
            } else {
                format!(
                    "declare it: xmlns:{0}='...' on this element or one around it",
                    visible(prefix)
                )
            };
            diagnostic(&format!("namespace prefix `{}` is not declared", visible(prefix)))
                .help(help)
        }
        Error::InvalidChar(quote @ (b'\'' | b'"'), b'<', _) => {
            let before = text.get(..offset(text, error.pos())).unwrap_or_default();
            let begin = before.rfind(char::from(*quote)).unwrap_or_default();
            diagnostic("`<` inside an attribute's value")
                .related("the value begins at", &Span::at(source, begin))
                .help("is the quote after it missing? for the character itself write &lt;")
        }
        Error::InvalidAttributeValue(_) => diagnostic("`<` inside an attribute's value")
            .help("for the character itself write &lt;"),
        Error::InvalidChar2("a quote", found, _) => diagnostic(&format!(
            "an attribute's value must be in quotes, but here is `{}`",
            ascii(*found)
        ))
        .help("write name='value' or name=\"value\""),
        Error::InvalidChar(expected, found, _) => {
            diagnostic(&format!("expected `{}` but found `{}`", ascii(*expected), ascii(*found)))
        }
        Error::InvalidChar2(expected, found, _) => {
            diagnostic(&format!("expected {expected} but found `{}`", ascii(*found)))
        }
        Error::NonXmlChar(character, _) => {
            diagnostic(&format!("character U+{:04X} is not allowed in XML", u32::from(*character)))
        }
        Error::InvalidName(_) => {
            diagnostic("a name must start here").help("for the character `<` itself write &lt;")
        }
        Error::InvalidComment(_) => diagnostic("a comment must not contain `--`")
            .help("write a single `-`, or end the comment before it with `-->`"),
        Error::UnexpectedDeclaration(_) => diagnostic("the XML declaration is not at the start")
            .help("move `<?xml ...?>` to the first line, or remove it"),
        Error::NodesLimitReached => Diagnostic::error(
            Span::whole(source),
            format!("file has more than {NODES_LIMIT} elements and texts"),
        ),
        Error::UnknownToken(_) => diagnostic("this is not XML")
            .help("a definition is one `<network>` element, as `virsh net-dumpxml NAME` prints it"),
        other => {
            diagnostic(&format!("not well-formed XML: {}", without_position(&other.to_string())))
        }
    }
}

fn close_tag(
    source: SourceId,
    text: &str,
    span: &Span,
    expected: &str,
    actual: &str,
) -> Diagnostic {
    let (expected, actual) = (visible(expected), visible(actual));
    let at = span.bytes.as_ref().map_or(0, |bytes| bytes.start);
    let length = text.get(at..).and_then(tag_length).unwrap_or_default();
    let span = Span::new(source, at..at + length);
    if expected.is_empty() {
        return Diagnostic::error(span, format!("`</{actual}>` closes nothing")).help("remove it");
    }
    let diagnostic =
        Diagnostic::error(span, format!("`</{actual}>` where `</{expected}>` has to come first"));
    let before = text.get(..at).unwrap_or_default();
    let diagnostic = match scan(before) {
        End::Open(opened) => diagnostic
            .related(format!("`<{expected}>` is opened at"), &Span::at(source, opened.start)),
        End::Nothing | End::Unfinished(..) => diagnostic,
    };
    diagnostic.help(format!("close it with `</{expected}>`, or with `/>` in its own tag"))
}

/// What is wrong with a text that stops too early.
fn unfinished(source: SourceId, text: &str) -> Diagnostic {
    match scan(text) {
        End::Open(tag) => {
            let name: String = text
                .get(tag.start + 1..tag.end)
                .unwrap_or_default()
                .chars()
                .take_while(|c| !c.is_whitespace() && !matches!(c, '/' | '>'))
                .collect();
            let name = visible(&name);
            Diagnostic::error(Span::new(source, tag), format!("`<{name}>` is never closed"))
                .help(format!("add `</{name}>`; if the end is missing, the file was cut off"))
        }
        End::Unfinished(start, end) => {
            let length = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
            Diagnostic::error(
                Span::new(source, start..start + length.len()),
                format!("this has no end: `{end}` is missing"),
            )
        }
        End::Nothing => Diagnostic::error(Span::whole(source), "file holds no `<network>`")
            .help("a definition is one `<network>` element, as `virsh net-dumpxml NAME` prints it"),
    }
}

/// Where a text stops.
enum End {
    Nothing,
    /// After this start tag, whose element is open.
    Open(Range<usize>),
    /// Inside something that began here and ends with this.
    Unfinished(usize, &'static str),
}

fn scan(text: &str) -> End {
    let mut open = Vec::new();
    for tag in tags(text) {
        match tag {
            Err((start, end)) => return End::Unfinished(start, end),
            Ok(tag) => {
                let shown = text.get(tag.clone()).unwrap_or_default();
                if shown.starts_with("</") {
                    open.pop();
                } else if !shown.ends_with("/>") {
                    open.push(tag);
                }
            }
        }
    }
    open.pop().map_or(End::Nothing, End::Open)
}

fn few_attributes(source: SourceId, text: &str) -> Result<(), Box<Diagnostic>> {
    for tag in tags(text).map_while(Result::ok) {
        let shown = text.get(tag.clone()).unwrap_or_default();
        if shown.bytes().filter(|byte| *byte == b'=').nth(ATTRIBUTES_LIMIT).is_some()
            && attributes(shown) > ATTRIBUTES_LIMIT
        {
            let message = format!("this tag has more than {ATTRIBUTES_LIMIT} attributes");
            return Err(Box::new(Diagnostic::error(Span::at(source, tag.start), message)));
        }
    }
    Ok(())
}

/// How many quoted values a tag has.
fn attributes(tag: &str) -> usize {
    let (mut count, mut quote) = (0, None);
    for byte in tag.bytes() {
        match quote {
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            Some(open) if open == byte => {
                quote = None;
                count += 1;
            }
            _ => {}
        }
    }
    count
}

/// The tags of a text, without comments and the like. Something without an end comes last, with
/// its start and the end that it lacks.
fn tags(text: &str) -> impl Iterator<Item = Result<Range<usize>, (usize, &'static str)>> {
    const SECTIONS: [(&str, &str); 3] = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")];
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text.get(at..)?.find('<')?;
            let rest = text.get(start..)?;
            let section = SECTIONS.iter().find(|(begin, _)| rest.starts_with(begin));
            let end = section.map_or(">", |(_, end)| end);
            let length = match section {
                Some(_) => rest.find(end).map(|found| found + end.len()),
                None => tag_length(rest),
            };
            at = length.map_or(text.len(), |length| start + length);
            match (length, section) {
                (None, _) => return Some(Err((start, end))),
                (Some(_), None) => return Some(Ok(start..at)),
                (Some(_), Some(_)) => {}
            }
        }
    })
}

/// The byte offset of a row and a column, both from 1, the column in characters.
fn offset(text: &str, position: TextPos) -> usize {
    let row = position.row.saturating_sub(1) as usize;
    let column = position.col.saturating_sub(1) as usize;
    let start = match row {
        0 => 0,
        row => text.match_indices('\n').nth(row - 1).map_or(text.len(), |(at, _)| at + 1),
    };
    let rest = text.get(start..).unwrap_or_default();
    rest.char_indices().nth(column).map_or(text.len(), |(at, _)| start + at)
}

fn ascii(byte: u8) -> String {
    if byte.is_ascii() && !byte.is_ascii_control() {
        char::from(byte).to_string()
    } else {
        format!("byte 0x{byte:02x}")
    }
}

/// The parser's words without its own `at LINE:COLUMN`.
fn without_position(message: &str) -> &str {
    message.rsplit_once(" at ").map_or(message, |(words, _)| words)
}
