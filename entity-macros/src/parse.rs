//! Reads the attributes as they are written. What they mean together is judged by [`crate::validate`].

use proc_macro2::{Ident, Span, TokenTree};
use std::fmt;
use syn::{
    Attribute, LitInt, LitStr, Meta, Path, Token, Type,
    ext::IdentExt as _,
    parenthesized,
    parse::{Parse, ParseStream, discouraged::Speculative as _},
    parse_quote,
    punctuated::Punctuated,
    token::Paren,
};

/// Complaints found so far. All are shown at once, so that nobody repairs a derive one build at a time.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Complains at `span`.
    pub(crate) fn at(&mut self, span: Span, text: impl fmt::Display) {
        self.push(syn::Error::new(span, text));
    }

    fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(all) => all.combine(error),
        }
    }

    /// What was built, if nothing was wrong with it. `None` goes with a complaint.
    pub(crate) fn finish<T>(self, built: Option<T>) -> Result<T, syn::Error> {
        match (self.0, built) {
            (None, Some(built)) => Ok(built),
            (Some(error), _) => Err(error),
            (None, None) => unreachable!("nothing was built and nothing was wrong"),
        }
    }
}

/// One value of the attribute with the place of its name.
pub(crate) struct Given<T> {
    pub(crate) at: Span,
    pub(crate) value: T,
}

/// `1 => from_v1`.
pub(crate) struct Upcast {
    pub(crate) from: LitInt,
    pub(crate) function: Path,
}

impl Parse for Upcast {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let from = input.parse()?;
        input.parse::<Token![=>]>()?;
        Ok(Self { from, function: input.parse()? })
    }
}

/// The attributes of `#[entity(...)]`.
#[derive(Default)]
pub(crate) struct EntityAttrs {
    pub(crate) kind: Option<Given<LitStr>>,
    pub(crate) handles: Option<Given<Vec<Path>>>,
    pub(crate) queries: Option<Given<Vec<Path>>>,
    pub(crate) version: Option<Given<LitInt>>,
    pub(crate) upcasts: Option<Given<Vec<Upcast>>>,
    pub(crate) volatile: Option<Given<()>>,
    krate: Option<Given<Path>>,
}

impl EntityAttrs {
    const KNOWN: &str = "`kind = \"...\"`, `handles(...)`, `queries(...)`, `version = N`, `upcast(N => function)`, \
                         `volatile` and `crate = \"...\"`";

    pub(crate) fn read(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut read = Self::default();
        for_each_name("entity", attrs, errors, |name, input, errors| match name.to_string().as_str() {
            "kind" => set(&mut read.kind, name, input, errors, equals),
            "handles" => set(&mut read.handles, name, input, errors, list),
            "queries" => set(&mut read.queries, name, input, errors, list),
            "version" => set(&mut read.version, name, input, errors, equals),
            "upcast" => set(&mut read.upcasts, name, input, errors, list),
            "volatile" => set(&mut read.volatile, name, input, errors, |_| Ok(())),
            "crate" => set(&mut read.krate, name, input, errors, path_in_string),
            _ => unknown("entity", name, Self::KNOWN, input, errors),
        });
        read
    }

    /// Where the generated code finds the runtime.
    pub(crate) fn krate(&self) -> Path {
        krate(self.krate.as_ref())
    }
}

/// The attributes of `#[message(...)]`.
#[derive(Default)]
pub(crate) struct MessageAttrs {
    pub(crate) name: Option<Given<LitStr>>,
    pub(crate) reply: Option<Given<Type>>,
    krate: Option<Given<Path>>,
}

impl MessageAttrs {
    const KNOWN: &str = "`name = \"...\"`, `reply = Type` and `crate = \"...\"`";

    pub(crate) fn read(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut read = Self::default();
        for_each_name("message", attrs, errors, |name, input, errors| match name.to_string().as_str() {
            "name" => set(&mut read.name, name, input, errors, equals),
            "reply" => set(&mut read.reply, name, input, errors, equals),
            "crate" => set(&mut read.krate, name, input, errors, path_in_string),
            _ => unknown("message", name, Self::KNOWN, input, errors),
        });
        read
    }

    /// Where the generated code finds the runtime.
    pub(crate) fn krate(&self) -> Path {
        krate(self.krate.as_ref())
    }
}

fn krate(given: Option<&Given<Path>>) -> Path {
    given.map_or_else(|| parse_quote!(::entity_runtime), |given| given.value.clone())
}

/// Calls `read` at each name in the `#[attribute(...)]`s; it takes the name's value from the stream, whatever it finds.
fn for_each_name(
    attribute: &str,
    attrs: &[Attribute],
    errors: &mut Errors,
    mut read: impl FnMut(&Ident, ParseStream<'_>, &mut Errors),
) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(attribute)) {
        let Meta::List(list) = &attr.meta else {
            errors.push(syn::Error::new_spanned(attr, format!("write `#[{attribute}(...)]`")));
            continue;
        };
        let parsed = list.parse_args_with(|input: ParseStream<'_>| {
            while !input.is_empty() {
                // Any identifier: `crate` is a keyword.
                let name = input.call(Ident::parse_any)?;
                read(&name, input, errors);
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        });
        if let Err(error) = parsed {
            errors.push(error);
        }
    }
}

/// Reads one value. After a bad one the stream stands at the next comma, so that the others are read as well.
fn set<T>(
    slot: &mut Option<Given<T>>,
    name: &Ident,
    input: ParseStream<'_>,
    errors: &mut Errors,
    value: fn(ParseStream<'_>) -> syn::Result<T>,
) {
    let ahead = input.fork();
    match value(&ahead) {
        Ok(value) => {
            input.advance_to(&ahead);
            if slot.is_some() {
                errors.at(name.span(), format_args!("`{name}` is given twice"));
            } else {
                *slot = Some(Given { at: name.span(), value });
            }
        }
        Err(error) => {
            errors.push(error);
            skip_value(input);
        }
    }
}

fn unknown(attribute: &str, name: &Ident, known: &str, input: ParseStream<'_>, errors: &mut Errors) {
    errors.at(name.span(), format_args!("unknown attribute `{name}`: `#[{attribute}(...)]` takes {known}"));
    skip_value(input);
}

/// Leaves the stream at the next comma that is not inside `<...>`, or at its end.
fn skip_value(input: ParseStream<'_>) {
    let mut open = 0_u32;
    let mut before = ' ';
    while !input.is_empty() && (open > 0 || !input.peek(Token![,])) {
        let Ok(token) = input.parse::<TokenTree>() else { return };
        let here = if let TokenTree::Punct(punct) = token { punct.as_char() } else { ' ' };
        match here {
            '<' => open += 1,
            // Not the end of `=>` or `->`.
            '>' if !matches!(before, '=' | '-') => open = open.saturating_sub(1),
            _ => {}
        }
        before = here;
    }
}

fn equals<T: Parse>(input: ParseStream<'_>) -> syn::Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn path_in_string(input: ParseStream<'_>) -> syn::Result<Path> {
    equals::<LitStr>(input)?.parse_with(Path::parse_mod_style)
}

fn list<T: Parse>(input: ParseStream<'_>) -> syn::Result<Vec<T>> {
    // Said here: the parser's own complaint would point behind the name and not say what the list looks like.
    if !input.peek(Paren) {
        return Err(input.error("expected a list in parentheses"));
    }
    let content;
    parenthesized!(content in input);
    Ok(Punctuated::<T, Token![,]>::parse_terminated(&content)?.into_iter().collect())
}
