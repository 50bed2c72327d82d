//! Judges what was read: which shapes can be an entity or a message, and which attributes agree with each other.
//!
//! What only the types know (a missing `impl Handle`, two messages of one name) is left to the generated code.

use crate::parse::{EntityAttrs, Errors, Given, MessageAttrs, Upcast};
use proc_macro2::{Ident, Span};
use quote::ToTokens as _;
use std::collections::{BTreeMap, HashMap};
use syn::{
    Attribute, Data, DeriveInput, LitInt, LitStr, Path, Type, ext::IdentExt as _, spanned::Spanned as _,
};

/// Longest kind and message name in bytes, the runtime's `NAME_LEN_MAX`; the tests hold them together.
const NAME_LEN_MAX: usize = 64;

/// An entity that can be written.
pub(crate) struct Entity {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) kind: LitStr,
    pub(crate) handles: Vec<Path>,
    pub(crate) queries: Vec<Path>,
    /// Where `handles` or `queries` stands, for what is wrong with the lists as a whole.
    pub(crate) lists_at: Span,
    /// `None`: the trait's own 1.
    pub(crate) version: Option<u32>,
    /// Each older version, in order from 1, with the function to the next.
    pub(crate) upcasts: Vec<(u32, Path)>,
    pub(crate) volatile: bool,
}

/// A message that can be written.
pub(crate) struct Message {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) name: LitStr,
    pub(crate) reply: Option<Type>,
    /// The reply is spelled `Result<..>`, so that its `Err` rejects the message.
    pub(crate) may_reject: bool,
}

pub(crate) fn entity(
    input: &DeriveInput,
    attrs: EntityAttrs,
    mut errors: Errors,
) -> Result<Entity, syn::Error> {
    let krate = attrs.krate();
    match &input.data {
        Data::Struct(_) => {}
        Data::Enum(data) => errors.at(
            data.enum_token.span(),
            "an entity is a struct: keep the enum in a field, so that fields can be added beside it later",
        ),
        Data::Union(data) => errors.at(data.union_token.span(), "an entity is a struct, not a union"),
    }
    refuse_generics(
        input,
        "an entity has no generics: its kind names one type in durable data; derive for a struct around each",
        &mut errors,
    );
    refuse_inner_attributes("entity", &input.data, &mut errors);

    let kind = attrs.kind.map(|kind| kind.value);
    match &kind {
        Some(kind) => check_name("kind", kind, &mut errors),
        None => errors.at(
            input.ident.span(),
            format_args!(
                "missing `kind`: add `#[entity(kind = \"{}\")]`; it names the entity in durable data and stays when \
                 the type is renamed",
                kebab(&input.ident)
            ),
        ),
    }

    let lists_at =
        attrs.handles.as_ref().or(attrs.queries.as_ref()).map_or_else(Span::call_site, |list| list.at);
    let handles = attrs.handles.map_or_else(Vec::new, |list| list.value);
    let queries = attrs.queries.map_or_else(Vec::new, |list| list.value);
    refuse_repeats(&handles, &queries, &mut errors);

    let chain = if attrs.volatile.is_some() {
        let versioned = [
            ("version", attrs.version.map(|version| version.at)),
            ("upcast", attrs.upcasts.map(|upcasts| upcasts.at)),
        ];
        for (name, at) in versioned {
            if let Some(at) = at {
                errors.at(
                    at,
                    format_args!(
                        "`{name}` has no meaning for a `volatile` entity: its state is never stored"
                    ),
                );
            }
        }
        None
    } else {
        chain(attrs.version, attrs.upcasts, &mut errors)
    };
    let (version, upcasts) =
        chain.map_or_else(Default::default, |(present, steps)| (Some(present), steps.into_iter().collect()));

    let entity = kind.map(|kind| Entity {
        krate,
        ident: input.ident.clone(),
        kind,
        handles,
        queries,
        lists_at,
        version,
        upcasts,
        volatile: attrs.volatile.is_some(),
    });
    errors.finish(entity)
}

pub(crate) fn message(
    input: &DeriveInput,
    attrs: MessageAttrs,
    mut errors: Errors,
) -> Result<Message, syn::Error> {
    let krate = attrs.krate();
    if let Data::Union(data) = &input.data {
        errors.at(data.union_token.span(), "a message is a struct or an enum, not a union");
    }
    refuse_generics(
        input,
        "a message has no generics: its name stands for one type in logs and on the wire; derive for a struct around \
         each",
        &mut errors,
    );
    refuse_inner_attributes("message", &input.data, &mut errors);

    let name = if let Some(given) = attrs.name {
        check_name("message name", &given.value, &mut errors);
        given.value
    } else {
        let name = kebab(&input.ident);
        if !is_name(&name) {
            errors.at(
                input.ident.span(),
                format_args!(
                    "`{name}`, made from the type's name, is no message name: add `#[message(name = \"...\")]` with \
                     {NAME_RULE}"
                ),
            );
        }
        LitStr::new(&name, input.ident.span())
    };

    let reply = attrs.reply.map(|reply| reply.value);
    let may_reject = match reply.as_ref().and_then(last_segment) {
        Some(last) if last == "Result" => true,
        Some(last) if last.to_string().ends_with("Result") => {
            errors.at(
                last.span(),
                format_args!(
                    "spell out `Result<T, E>` instead of `{last}`: an `Err` rejects the message and undoes its turn, \
                     and the derive sees that only in the type's own name"
                ),
            );
            false
        }
        _ => false,
    };
    errors.finish(Some(Message { krate, ident: input.ident.clone(), name, reply, may_reject }))
}

fn refuse_generics(input: &DeriveInput, text: &str, errors: &mut Errors) {
    if let Some(first) = input.generics.params.first() {
        errors.at(first.span(), text);
    }
}

/// The compiler lets a derive's attribute stand on fields and variants too, where nobody would read it.
fn refuse_inner_attributes(attribute: &str, data: &Data, errors: &mut Errors) {
    let mut refuse = |attrs: &[Attribute]| {
        for attr in attrs.iter().filter(|attr| attr.path().is_ident(attribute)) {
            errors.at(
                attr.path().span(),
                format_args!("`#[{attribute}(...)]` stands on the type, not inside it"),
            );
        }
    };
    match data {
        Data::Struct(data) => data.fields.iter().for_each(|field| refuse(&field.attrs)),
        Data::Union(data) => data.fields.named.iter().for_each(|field| refuse(&field.attrs)),
        Data::Enum(data) => {
            for variant in &data.variants {
                refuse(&variant.attrs);
                variant.fields.iter().for_each(|field| refuse(&field.attrs));
            }
        }
    }
}

const NAME_RULE: &str = "1 to 64 of the characters a-z, 0-9, `.`, `_` and `-`";

fn check_name(what: &str, name: &LitStr, errors: &mut Errors) {
    if !is_name(&name.value()) {
        errors.at(name.span(), format_args!("{:?} is no {what}: use {NAME_RULE}", name.value()));
    }
}

/// The runtime's `entity::is_name`, which cannot be called from here.
fn is_name(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// `TransferDone` to `transfer-done`, `HTTPGet2` to `http-get2`: a word begins at an upper-case letter that follows a
/// lower-case one or a digit, or is followed by a lower-case one.
fn kebab(ident: &Ident) -> String {
    let text = ident.unraw().to_string();
    let letters: Vec<char> = text.chars().collect();
    let mut name = String::with_capacity(text.len() + 4);
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| letters[before]);
        let begins_a_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_ascii_digit()
                    || before.is_uppercase() && letters.get(at + 1).is_some_and(|after| after.is_lowercase())
            });
        if begins_a_word {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// One type listed twice, as far as its spelling tells. Two spellings of one type, or two types of one name, are found
/// by the generated assertion on the names.
fn refuse_repeats(handles: &[Path], queries: &[Path], errors: &mut Errors) {
    let mut seen = HashMap::new();
    for (path, list) in
        handles.iter().map(|path| (path, "handles")).chain(queries.iter().map(|path| (path, "queries")))
    {
        let spelled = path.to_token_stream().to_string().replace(' ', "");
        match seen.insert(spelled.clone(), list) {
            None => {}
            Some(before) if before == list => {
                errors.at(path.span(), format_args!("`{spelled}` stands in `{list}(...)` twice"));
            }
            Some(_) => errors.at(
                path.span(),
                format_args!("`{spelled}` is both handled and queried: a message changes the entity or reads it, not both"),
            ),
        }
    }
}

/// The present version and the function from each older one to the next. Each must lead on, or stored state could not be
/// read any more.
fn chain(
    version: Option<Given<LitInt>>,
    upcasts: Option<Given<Vec<Upcast>>>,
    errors: &mut Errors,
) -> Option<(u32, BTreeMap<u32, Path>)> {
    let Some(version) = version else {
        if let Some(upcasts) = upcasts {
            errors.at(upcasts.at, "`upcast` needs `version = N`: the version it leads to");
        }
        return None;
    };
    let present = match number(&version.value) {
        Ok(present) => present,
        Err(complaint) => {
            errors.at(version.value.span(), complaint);
            return None;
        }
    };
    let list_at = upcasts.as_ref().map_or(version.at, |upcasts| upcasts.at);
    let mut steps = BTreeMap::new();
    let mut sound = true;
    for upcast in upcasts.into_iter().flat_map(|upcasts| upcasts.value) {
        let complaint = match number(&upcast.from) {
            Err(complaint) => complaint.to_owned(),
            Ok(from) if present <= from => {
                format!(
                    "an upcast starts below the present version {present}; from {from} there is nowhere to go"
                )
            }
            Ok(from) if steps.contains_key(&from) => format!("a second upcast from version {from}"),
            Ok(from) => {
                steps.insert(from, upcast.function);
                continue;
            }
        };
        sound = false;
        errors.at(upcast.from.span(), complaint);
    }
    // A wrong number would be reported again as the gap it left.
    let gap = (1..present).find(|from| !steps.contains_key(from)).filter(|_| sound);
    if let Some(gap) = gap {
        errors.at(
            list_at,
            format_args!(
                "no upcast from version {gap}: add `upcast({gap} => function)`, a function from the state of version \
                 {gap} to that of version {}",
                gap + 1
            ),
        );
    }
    Some((present, steps))
}

fn number(literal: &LitInt) -> Result<u32, &'static str> {
    match literal.base10_parse() {
        Ok(0) => Err("versions start at 1"),
        Ok(number) => Ok(number),
        Err(_) => Err("a version is a whole number up to 4294967295"),
    }
}

/// `Result` of `std::result::Result<T, E>`; also inside the invisible groups of a macro's `$reply:ty`.
fn last_segment(reply: &Type) -> Option<&Ident> {
    match reply {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn words_of_a_type_name_are_joined_by_dashes() {
        for (from, to) in [
            ("Deposit", "deposit"),
            ("TransferDone", "transfer-done"),
            ("HTTPGet2", "http-get2"),
            ("V2Order", "v2-order"),
            ("A", "a"),
            ("snake_case", "snake_case"),
        ] {
            assert_eq!(kebab(&Ident::new(from, Span::call_site())), to);
        }
        assert_eq!(kebab(&parse_quote!(r#Move)), "move");
    }

    #[test]
    fn names_are_judged_as_the_runtime_judges_them() {
        let longest = "k".repeat(entity_runtime::entity::NAME_LEN_MAX);
        let too_long = format!("{longest}k");
        for name in ["", "a", "a.b_c-9", "A", "a/b", "a b", "\u{e9}", longest.as_str(), too_long.as_str()] {
            assert_eq!(is_name(name), entity_runtime::entity::is_name(name), "{name}");
        }
    }
}
