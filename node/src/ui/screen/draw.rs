//! A frame of the screen, from what is to be shown.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Borders, Cell, Chart, Clear, Dataset, GraphType, LineGauge, Padding, Paragraph, Row, Table,
    TableState, Wrap,
};

use super::State;
use super::members::{Concern, concern, sorted};
use crate::report::{MemberStatus, Round, Split, Status, name_of, name_or_id};
use crate::ui::status::{clock, coordination, does, figures, heard, lasts, newcomer, round_now, state};
use crate::ui::words::{counted, loss, metric, seconds, short_hash};

/// Rounds whose mean tells how long those to come take.
const ETA_ROUNDS: usize = 5;

/// Rounds that the bars of times show at most.
const BARS_MAX: usize = 12;

/// Lines that a reason and an event have at most.
const REASON_LINES: usize = 4;

/// Members that are shown where the screen is low.
const MEMBERS_MIN: u16 = 3;

const DIM: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const LEAD: Color = Color::Cyan;
const LOSS: Color = Color::Magenta;
const TRAIN: Color = Color::Green;
const TRANSFER: Color = Color::Yellow;
const AGREE: Color = Color::Blue;

pub(super) fn draw(frame: &mut Frame<'_>, s: &State) {
    let area = frame.area();
    let Some(status) = &s.snapshot.status else {
        let text = s.snapshot.trouble.as_deref().unwrap_or("the node is just starting");
        frame.render_widget(Paragraph::new(text).alignment(Alignment::Center), area);
        return;
    };
    let head = head(status, s.snapshot.trouble.as_deref(), area.width);
    let members = (status.roster.len() + status.newcomers.len()).max(1) as u16 + 2;
    let below = if area.height >= 34 { 15 } else { 9 };
    let free = area.height.saturating_sub(head.len() as u16 + 2 + below);
    let [top, bar, table, middle, events, keys] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(1),
        Constraint::Length(members.min(free.max(MEMBERS_MIN + 1))),
        Constraint::Length(below - 2),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    progress(frame, bar, status, &s.snapshot.rounds);
    match s.shows_details {
        true => details(frame, table.union(middle), s, status),
        false => {
            member_table(frame, table, s, status);
            let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Fill(1)]).areas(middle);
            curves(frame, left, status, &s.snapshot.rounds);
            times(frame, right, &s.snapshot.rounds);
        }
    }
    happenings(frame, events, &s.snapshot.events);
    footer(frame, keys, s);
    if s.shows_help {
        help(frame, area, s.quits);
    }
}

/// Which run, which round, who coordinates and why, what is in the way.
fn head(status: &Status, trouble: Option<&str>, width: u16) -> Vec<Line<'static>> {
    let me = name_or_id(&status.name, &status.node_id);
    let mut lines = vec![Line::from(vec![
        Span::styled(format!(" {}", status.run_name), BOLD.fg(LEAD)),
        Span::styled(format!(" ({})", short_hash(&status.run_id)), DIM),
        Span::raw(format!("  {me}: {}", state(&status.state))),
    ])];
    if let Some(round) = round_now(status) {
        lines.push(Line::raw(format!(" {round}")));
    }
    if let Some(by) = coordination(status) {
        lines.push(Line::raw(format!(" {by}")));
    }
    if let Some(figures) = figures(status.evaluated.as_ref(), status.best.as_ref()) {
        lines.push(Line::raw(format!(" {figures}")));
    }
    for (text, colour) in [(status.reason.as_deref(), Color::Yellow), (trouble, Color::Red)] {
        for line in text.into_iter().flat_map(|text| folded(text, width.saturating_sub(2), REASON_LINES)) {
            lines.push(Line::styled(format!(" {line}"), Style::new().fg(colour)));
        }
    }
    lines
}

/// The bar of rounds, with the time that is left as the last rounds tell it.
fn progress(frame: &mut Frame<'_>, area: Rect, s: &Status, rounds: &[Round]) {
    let share = s.trained as f64 / s.rounds.max(1) as f64;
    let last: Vec<u64> = rounds.iter().rev().filter_map(|r| r.duration_ms).take(ETA_ROUNDS).collect();
    let left = s.rounds.saturating_sub(s.trained);
    let eta = (!last.is_empty() && left > 0 && s.state == "member")
        .then(|| format!(", about {} left", clock(left * last.iter().sum::<u64>() / last.len() as u64)));
    let label = format!(" {} of {} rounds{} ", s.trained, s.rounds, eta.unwrap_or_default());
    let gauge = LineGauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(label)
        .filled_symbol("█")
        .unfilled_symbol("░")
        .filled_style(Style::new().fg(LEAD))
        .unfilled_style(DIM);
    frame.render_widget(gauge, area);
}

/// A member's row, without its name.
fn row(m: &MemberStatus, me: &str) -> [String; 4] {
    [m.part.clone().unwrap_or_default(), does(m), lasts(m), heard(m, me)]
}

fn member_table(frame: &mut Frame<'_>, area: Rect, s: &State, status: &Status) {
    let members = sorted(status, s.sort);
    let rows = members.iter().map(|m| {
        let colour = match concern(m) {
            Concern::Lost => Style::new().fg(Color::Red),
            Concern::Late => Style::new().fg(Color::Yellow),
            Concern::Busy => Style::new(),
            Concern::None => DIM,
        };
        let name = name_of(&status.roster, &m.node_id);
        let [part, does, lasts, heard] = row(m, &status.node_id);
        Row::new([
            Cell::from(name).style(BOLD),
            Cell::from(part),
            Cell::from(does),
            Cell::from(lasts),
            Cell::from(heard),
        ])
        .style(colour)
    });
    let newcomers = status
        .newcomers
        .iter()
        .map(|n| Row::new([Cell::from(Span::styled(newcomer(n), Style::new().fg(Color::Yellow)))]).style(Style::new()));
    let part = status.roster.iter().filter_map(|m| m.part.as_ref()).map(String::len).max().map_or(0, |len| len.max(4));
    // Where there is little room, what is known elsewhere goes first.
    let (part, lasts, heard) = match area.width {
        100.. => (part, 36, 14),
        72..100 => (part, 24, 9),
        60..72 => (0, 24, 0),
        _ => (0, 0, 0),
    };
    let widths = [
        Constraint::Min(10),
        Constraint::Max(part as u16),
        Constraint::Max(26),
        Constraint::Max(lasts),
        Constraint::Max(heard),
    ];
    let header = Row::new(["node", "part", "does", "for", "heard of"]).style(DIM);
    let room =
        usize::from(area.height.saturating_sub(2 + status.newcomers.len().min(usize::from(area.height / 3)) as u16));
    let all = match members.len() {
        count if count > room => format!("{room} of {count} members, more with the arrows"),
        count => counted(count, "member"),
    };
    let title = format!(" {all}, {} ", s.sort.name());
    let table = Table::new(rows, widths)
        .header(header)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP).title(title).border_style(DIM));
    let waiting = newcomers.len() as u16;
    let [table_area, below] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(waiting.min(area.height / 3))]).areas(area);
    let mut chosen = TableState::default().with_selected(s.chosen.min(members.len().saturating_sub(1)));
    frame.render_stateful_widget(table, table_area, &mut chosen);
    frame.render_widget(Table::new(newcomers, [Constraint::Fill(1)]), below);
}

/// All that is known of the chosen member.
fn details(frame: &mut Frame<'_>, area: Rect, s: &State, status: &Status) {
    let members = sorted(status, s.sort);
    let Some(m) = members.get(s.chosen.min(members.len().saturating_sub(1))) else { return };
    let [part, does, lasts, heard] = row(m, &status.node_id);
    let field = |name: &str, value: String| Line::from(vec![Span::styled(format!("{name:14}"), DIM), Span::raw(value)]);
    let mut lines = vec![
        field("id", m.node_id.clone()),
        field("part", if part.is_empty() { "-".to_owned() } else { part }),
        field("does", does),
        field("for", if lasts.is_empty() { "-".to_owned() } else { lasts }),
        field("heard of", heard),
        Line::raw(""),
        Line::styled("round     examples   loss     trained", DIM),
    ];
    for round in s.snapshot.rounds.iter().rev() {
        let of = |r: &Round| r.contributions.iter().find(|c| c.node_id == m.node_id).cloned();
        lines.push(match of(round) {
            Some(c) => Line::raw(format!(
                "{:<9} {:<10} {:<8} {}",
                round.round,
                c.samples,
                loss(c.train_loss, 3),
                seconds(Some(c.train_ms))
            )),
            None => Line::styled(format!("{:<9} no update", round.round), DIM),
        });
    }
    let name = name_of(&status.roster, &m.node_id);
    let block =
        Block::new().borders(Borders::TOP).title(format!(" {name} ")).border_style(DIM).padding(Padding::left(1));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The leading metric, and the training loss beside it where there is room.
fn curves(frame: &mut Frame<'_>, area: Rect, status: &Status, rounds: &[Round]) {
    let name = status.lead.as_ref().map_or("accuracy", |lead| lead.metric.as_str());
    let lead: Vec<(f64, f64)> = rounds.iter().filter_map(|r| Some((r.round as f64, *r.metrics.get(name)?))).collect();
    let losses: Vec<(f64, f64)> = rounds.iter().filter_map(|r| Some((r.round as f64, r.train_loss?))).collect();
    let [left, right] = Layout::horizontal([Constraint::Percentage(50), Constraint::Fill(1)]).areas(area);
    curve(frame, left, name, &lead, LEAD, |value| metric(name, value));
    curve(frame, right, "training loss", &losses, LOSS, |value| format!("{value:.3}"));
}

fn curve(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &str,
    points: &[(f64, f64)],
    colour: Color,
    told: impl Fn(f64) -> String,
) {
    let now = points.last().map(|(_, value)| told(*value)).unwrap_or_default();
    let title = Line::from(vec![Span::raw(format!(" {name} ")), Span::styled(format!("{now} "), BOLD.fg(colour))]);
    let block = Block::new().borders(Borders::TOP).title(title).border_style(DIM);
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else {
        let text = Paragraph::new("not measured yet").style(DIM).block(block.padding(Padding::left(1)));
        return frame.render_widget(text, area);
    };
    let values = || points.iter().map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
    let (from, to) = if first < last { (*first, *last) } else { (first - 0.5, last + 0.5) };
    let set = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(if points.len() > 1 { GraphType::Line } else { GraphType::Scatter })
        .style(Style::new().fg(colour))
        .data(points);
    let ends = [first, last].map(|round| format!("{round:.0}"));
    let chart = Chart::new(vec![set])
        .block(block)
        .x_axis(Axis::default().bounds([from, to]).labels(ends).style(DIM))
        .y_axis(Axis::default().bounds([low, high]).labels([told(low), told(high)]).style(DIM));
    frame.render_widget(chart, area);
}

/// The last rounds as bars of their time: training, transfer, agreement.
fn times(frame: &mut Frame<'_>, area: Rect, rounds: &[Round]) {
    let title = Line::from(vec![
        Span::raw(" time: "),
        Span::styled("train ", Style::new().fg(TRAIN)),
        Span::styled("transfer ", Style::new().fg(TRANSFER)),
        Span::styled("agree ", Style::new().fg(AGREE)),
    ]);
    let block = Block::new().borders(Borders::TOP).title(title).border_style(DIM);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let count = usize::from(inside.height).min(BARS_MAX);
    let shown: Vec<(u64, u64, Split)> =
        rounds.iter().rev().filter_map(|r| Some((r.round, r.duration_ms?, r.split()?))).take(count).collect();
    let longest = shown.iter().map(|(_, ms, _)| *ms).max().unwrap_or(1).max(1);
    let room = u64::from(inside.width.saturating_sub(14));
    let lines = shown.iter().rev().map(|(round, ms, split)| {
        // What is there is seen, however short it was.
        let cells = |ms: u64| (ms * room).div_ceil(longest) as usize;
        let small = [(cells(split.transfer_ms), TRANSFER), (cells(split.agree_ms), AGREE)];
        let train = cells(*ms).saturating_sub(small.iter().map(|(cells, _)| cells).sum());
        let bar = |(cells, colour): (usize, Color)| Span::styled("█".repeat(cells), Style::new().fg(colour));
        Line::from(vec![
            Span::styled(format!("{round:>5} "), DIM),
            bar((train, TRAIN)),
            bar(small[0]),
            bar(small[1]),
            Span::raw(format!(" {}", seconds(Some(*ms)))),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inside);
}

fn happenings(frame: &mut Frame<'_>, area: Rect, events: &[String]) {
    let block = Block::new().borders(Borders::TOP).title(" events ").border_style(DIM);
    let room = usize::from(area.height.saturating_sub(1));
    let last = &events[events.len().saturating_sub(room)..];
    let lines: Vec<String> =
        last.iter().flat_map(|line| folded(line, area.width.saturating_sub(4), REASON_LINES)).collect();
    let lines = &lines[lines.len().saturating_sub(room)..];
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let key = |key: &'static str, does: &'static str| [Span::styled(key, BOLD), Span::styled(does, DIM)];
    let pause = if s.is_paused { " goes on   " } else { " pause   " };
    let keys =
        [key(" ?", " help   "), key("s", " sort   "), key("d", " details   "), key("p", pause), key("q", " quit   ")];
    let mut spans: Vec<Span<'_>> = keys.into_iter().flatten().collect();
    if s.is_paused {
        spans.push(Span::styled("paused; the node goes on", Style::new().fg(Color::Yellow)));
    }
    frame.render_widget(Line::from(spans), area);
}

fn help(frame: &mut Frame<'_>, area: Rect, quits: &str) {
    let quits = format!("q, Esc      {quits}");
    let lines = [
        "?, h        this help",
        "s           sort members: the late first, by name, by progress",
        "up, down    choose a member (also k, j)",
        "d, Enter    details of that member",
        "p, space    pause the screen, so that it can be read",
        &quits,
        "Ctrl-C      stop",
        "",
        "LATE: a member trains twice as long as it usually does, and 5 s more.",
        "time: train is the slowest member's training, transfer what came",
        "until the average was proposed, agree the rest.",
    ];
    let (width, height) = (70.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" keys ").padding(Padding::horizontal(1));
    let text = Paragraph::new(lines.map(Line::raw).to_vec()).block(block).wrap(Wrap { trim: false });
    frame.render_widget(text, place);
}

/// A text in lines of a width, so many at most, cut at words; all but the first are moved in.
fn folded(text: &str, width: u16, lines_max: usize) -> Vec<String> {
    // A number stays with its unit.
    let text = text.replace(" %", "\u{a0}%");
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let count = lines.len();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= usize::from(width) => {
                line.push(' ');
                line.push_str(word);
            }
            Some(line) if count == lines_max => {
                line.push_str(" ...");
                break;
            }
            _ => lines.push(if count == 0 { word.to_owned() } else { format!("  {word}") }),
        }
    }
    lines
}
