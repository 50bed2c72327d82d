//! Writes the impls. Every path is fully qualified and every trait item named through its trait, so that nothing in
//! scope where the derive stands can change what it means.

use crate::validate::{Entity, Message};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::{DeriveInput, Path, Type, WherePredicate, parse_quote, spanned::Spanned as _};

pub(crate) fn entity(entity: &Entity) -> TokenStream {
    let Entity { krate, ident, kind, handles, queries, .. } = entity;
    let handled = names(krate, handles);
    let queried = names(krate, queries);

    let version =
        entity.version.as_ref().map(|version| quote!(const VERSION: ::core::primitive::u32 = #version;));
    let volatile = entity.volatile.then(|| {
        quote!(
            const VOLATILE: ::core::primitive::bool = true;
        )
    });
    let queries_const = (!queries.is_empty())
        .then(|| quote!(const QUERIES: &'static [&'static ::core::primitive::str] = &[#(#queried),*];));
    let handle_named = handle_named(entity, &handled);
    let query_named = query_named(entity, &queried);
    let decode_versioned = decode_versioned(entity);
    let names_differ = names_differ(entity, handled.iter().chain(&queried));

    quote! {
        #[automatically_derived]
        #[allow(unused_qualifications)]
        impl #krate::entity::Entity for #ident {
            type State = #ident;
            const KIND: &'static ::core::primitive::str = #kind;
            #version
            #volatile
            const HANDLES: &'static [&'static ::core::primitive::str] = &[#(#handled),*];
            #queries_const
            #handle_named
            #query_named
            #decode_versioned
        }
        #names_differ
    }
}

/// `<M as Message>::NAME` for each listed type, placed at its name in the list.
fn names(krate: &Path, messages: &[Path]) -> Vec<TokenStream> {
    messages
        .iter()
        .map(|message| quote_spanned!(message.span()=> <#message as #krate::message::Message>::NAME))
        .collect()
}

fn handle_named(entity: &Entity, names: &[TokenStream]) -> TokenStream {
    let Entity { krate, handles, .. } = entity;
    let result = quote! {
        ::core::result::Result<#krate::entity::Answer, #krate::entity::MessageError>
    };
    if handles.is_empty() {
        return quote! {
            fn handle_named(
                &mut self,
                _: &::core::primitive::str,
                _: &[::core::primitive::u8],
                _: &#krate::context::TurnInput<'_>,
                _: &mut #krate::context::Effects,
            ) -> #result {
                ::core::result::Result::Err(#krate::entity::MessageError::Unknown)
            }
        };
    }
    // The function's path is placed at the name in `handles(...)`, where a missing `impl Handle` is then reported; its
    // arguments are not: in a list written by another macro they would not be the method's own.
    let handlers = handles
        .iter()
        .map(|message| quote_spanned!(message.span()=> #krate::entity::handle::<Self, #message>));
    quote! {
        // Two messages of one name are reported by the assertion below, in words.
        #[allow(unreachable_patterns)]
        fn handle_named(
            &mut self,
            name: &::core::primitive::str,
            body: &[::core::primitive::u8],
            input: &#krate::context::TurnInput<'_>,
            effects: &mut #krate::context::Effects,
        ) -> #result {
            match name {
                #(#names => #handlers(self, body, input, effects),)*
                _ => ::core::result::Result::Err(#krate::entity::MessageError::Unknown),
            }
        }
    }
}

fn query_named(entity: &Entity, names: &[TokenStream]) -> Option<TokenStream> {
    let Entity { krate, queries, .. } = entity;
    // Without queries the trait's own method refuses every name.
    if queries.is_empty() {
        return None;
    }
    let answers = queries
        .iter()
        .map(|message| quote_spanned!(message.span()=> #krate::entity::query::<Self, #message>));
    Some(quote! {
        #[allow(unreachable_patterns)]
        fn query_named(
            &self,
            name: &::core::primitive::str,
            body: &[::core::primitive::u8],
            reply: &mut ::std::vec::Vec<::core::primitive::u8>,
        ) -> ::core::result::Result<(), #krate::entity::MessageError> {
            match name {
                #(#names => #answers(self, body, reply),)*
                _ => ::core::result::Result::Err(#krate::entity::MessageError::Unknown),
            }
        }
    })
}

/// One arm per old version: decode what its function takes, then apply that function and all later ones.
fn decode_versioned(entity: &Entity) -> Option<TokenStream> {
    let Entity { krate, upcasts, .. } = entity;
    if upcasts.is_empty() {
        return None;
    }
    let bytes = Ident::new("bytes", Span::call_site());
    let arms = upcasts.iter().enumerate().map(|(at, (from, first))| {
        let decode_old = placed(&parse_quote!(#krate::entity::decode_old), first.span());
        let decoded = quote_spanned!(first.span()=> #decode_old(#bytes));
        let state = upcasts[at..].iter().fold(decoded, |state, (_, step)| {
            let upcast = placed(&parse_quote!(#krate::entity::upcast), step.span());
            quote_spanned!(step.span()=> #upcast(#state, #step))
        });
        quote!(#from => #state,)
    });
    Some(quote! {
        fn decode_versioned(
            version: ::core::primitive::u32,
            bytes: &[::core::primitive::u8],
        ) -> ::core::result::Result<Self, #krate::error::StateError> {
            match version {
                #(#arms)*
                _ => #krate::entity::decode_present::<Self>(version, bytes),
            }
        }
    })
}

/// `path` as if it stood at `place`: a call is reported where its first token is.
fn placed(path: &Path, place: Span) -> TokenStream {
    let tokens = path.to_token_stream().into_iter();
    tokens
        .map(|mut token| {
            token.set_span(place);
            token
        })
        .collect()
}

/// The macro sees types and not the names they carry, so the compiler compares those.
fn names_differ<'a>(entity: &Entity, names: impl Iterator<Item = &'a TokenStream>) -> Option<TokenStream> {
    let names: Vec<_> = names.collect();
    if names.len() < 2 {
        return None;
    }
    let krate = &entity.krate;
    let text = format!(
        "two messages of `{}` have the same name; give one of them another with `#[message(name = \"...\")]`",
        entity.ident
    );
    let assert = quote_spanned! {entity.lists_at=>
        ::core::assert!(#krate::entity::names_differ(&[#(#names),*]), #text)
    };
    Some(quote! {
        #[allow(unused_qualifications)]
        const _: () = #assert;
    })
}

pub(crate) fn message(message: &Message) -> TokenStream {
    let Message { krate, ident, name, .. } = message;
    let unit: Type = parse_quote!(());
    let reply = message.reply.as_ref().unwrap_or(&unit);
    let is_rejection = message.may_reject.then(|| {
        // Told at the type when it is a `Result` of another kind; the name itself stays the method's own.
        let answer = Ident::new("reply", Span::call_site().located_at(reply.span()));
        quote! {
            fn is_rejection(reply: &<Self as #krate::message::Message>::Reply) -> ::core::primitive::bool {
                ::core::result::Result::is_err(#answer)
            }
        }
    });
    quote! {
        #[automatically_derived]
        #[allow(unused_qualifications)]
        impl #krate::message::Message for #ident {
            const NAME: &'static ::core::primitive::str = #name;
            type Reply = #reply;
            type Body = #ident;
            #is_rejection
        }
    }
}

/// The complaints, and an impl that is never run: without it, each use of the entity would be an error of its own.
pub(crate) fn entity_refused(input: &DeriveInput, krate: &Path, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let ident = &input.ident;
    let (impl_generics, ty_generics, _) = input.generics.split_for_impl();
    let bound = parse_quote! {
        for<'__refused> #ident #ty_generics: #krate::entity::State<#ident #ty_generics> + 'static
    };
    let where_clause = bounded(input, bound);
    quote! {
        #error
        #[automatically_derived]
        impl #impl_generics #krate::entity::Entity for #ident #ty_generics #where_clause {
            type State = Self;
            const KIND: &'static ::core::primitive::str = "refused";
            const HANDLES: &'static [&'static ::core::primitive::str] = &[];
            fn handle_named(
                &mut self,
                _: &::core::primitive::str,
                _: &[::core::primitive::u8],
                _: &#krate::context::TurnInput<'_>,
                _: &mut #krate::context::Effects,
            ) -> ::core::result::Result<#krate::entity::Answer, #krate::entity::MessageError> {
                ::core::result::Result::Err(#krate::entity::MessageError::Unknown)
            }
        }
    }
}

/// As [`entity_refused`], with the reply as it is written, so that the handlers agree with it.
pub(crate) fn message_refused(
    input: &DeriveInput,
    krate: &Path,
    reply: Option<&Type>,
    error: &syn::Error,
) -> TokenStream {
    let error = error.to_compile_error();
    let ident = &input.ident;
    let (impl_generics, ty_generics, _) = input.generics.split_for_impl();
    let bound = parse_quote! {
        for<'__refused> #ident #ty_generics: #krate::message::Body<#ident #ty_generics>
            + ::core::marker::Send + 'static
    };
    let where_clause = bounded(input, bound);
    let unit: Type = parse_quote!(());
    let reply = reply.unwrap_or(&unit);
    quote! {
        #error
        #[automatically_derived]
        impl #impl_generics #krate::message::Message for #ident #ty_generics #where_clause {
            const NAME: &'static ::core::primitive::str = "refused";
            type Reply = #reply;
            type Body = Self;
        }
    }
}

/// The type's own conditions and one more. `for<'__refused>` says nothing about the type; it makes the compiler ask for
/// the bound where the impl is used, and not complain here about what a refused type cannot do.
fn bounded(input: &DeriveInput, bound: WherePredicate) -> syn::WhereClause {
    let mut generics = input.generics.clone();
    let clause = generics.make_where_clause();
    clause.predicates.push(bound);
    clause.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parse::{EntityAttrs, Errors, MessageAttrs},
        validate,
    };

    /// A test crate always has `::entity_runtime` as well, so only the tokens can show that a renamed one suffices.
    #[test]
    fn a_renamed_runtime_is_the_only_one_named() {
        let input: DeriveInput = parse_quote! {
            #[entity(crate = "renamed", kind = "account", handles(A, B), queries(C), version = 2, upcast(1 => from))]
            #[message(crate = "renamed", reply = Result<u64, String>)]
            struct Account;
        };
        let mut errors = Errors::default();
        let attrs = EntityAttrs::read(&input.attrs, &mut errors);
        let krate = attrs.krate();
        let accepted = entity(&validate::entity(&input, attrs, errors).expect("a right use"));
        let refused = entity_refused(&input, &krate, &syn::Error::new(Span::call_site(), "refused"));
        let mut errors = Errors::default();
        let attrs = MessageAttrs::read(&input.attrs, &mut errors);
        let sent = message(&validate::message(&input, attrs, errors).expect("a right use"));
        let unsent = message_refused(&input, &krate, None, &syn::Error::new(Span::call_site(), "refused"));
        for tokens in [accepted, refused, sent, unsent] {
            let text = tokens.to_string();
            assert!(text.contains("renamed :: ") && !text.contains("entity_runtime"), "{text}");
        }
    }
}
