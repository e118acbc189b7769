//! The two macros the modules are written in, and the records they leave for the conformance test.
//!
//! A structure or constant that is declared through them cannot be forgotten by the test: each
//! module's `STRUCTS` and `CONSTANTS` are made from the same lines as the items themselves. They are
//! only constants; a binary that does not name them does not contain them.

/// Where one field of a structure lies.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The field's Rust name: the C name, padding starting with `_`.
    pub name: &'static str,
    /// Bytes from the structure's start.
    pub offset: usize,
    /// Bytes the field takes.
    pub size: usize,
}

/// A structure as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The C type, as C source.
    pub c_type: &'static str,
    /// Bytes.
    pub size: usize,
    /// Bytes.
    pub align: usize,
    /// In order.
    pub fields: &'static [Field],
}

/// A constant and its value.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// The Rust name: what the header calls it, in upper case, without `prefix`.
    pub name: &'static str,
    /// What the header's name has in front of it.
    pub prefix: &'static str,
    /// The value, sign-extended.
    pub value: u64,
    /// Bytes of its Rust type.
    pub width: usize,
}

/// Bytes of a field, told by its accessor.
pub(crate) const fn field_size<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Declares ABI structures: `pub struct RustName("C type", bytes) { field: Type, … }`.
///
/// Each gets `repr(C)`, the byte conversions of zerocopy, an all-zero `Default`, an assertion on its
/// size, and public fields; the module gets `STRUCTS`, the list of their layouts.
macro_rules! abi_structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident($c:literal, $size:expr) {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)?
        }
    )*) => {
        $(
            $(#[$meta])*
            #[doc = ""]
            #[doc = concat!("C: `", $c, "`.")]
            #[allow(missing_docs, reason = "fields have the header's names")]
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            )]
            pub struct $name {
                $( $(#[$fmeta])* pub $field: $ty, )*
            }

            impl Default for $name {
                /// All bytes zero.
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }

            const _: () = assert!(size_of::<$name>() == $size);
        )*

        /// The layouts of this module's structures, for the conformance test.
        #[doc(hidden)]
        pub const STRUCTS: &[$crate::Layout] = &[$(
            $crate::Layout {
                c_type: $c,
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: &[$(
                    $crate::Field {
                        name: stringify!($field),
                        offset: core::mem::offset_of!($name, $field),
                        size: size_of::<$ty>(),
                    },
                )*],
            },
        )*];
    };
}

/// Declares ABI constants in groups: `"What the group is": Type { NAME = value, … }`.
///
/// The module gets `CONSTANTS`, the list of their values. `prefix "…";` says what the header's names
/// have in front of these.
macro_rules! abi_constants {
    ($( $doc:literal : $ty:ty { $( $(#[$meta:meta])* $name:ident = $value:expr ),* $(,)? } )*) => {
        abi_constants! { prefix ""; $( $doc : $ty { $( $(#[$meta])* $name = $value ),* } )* }
    };
    (prefix $prefix:literal;
     $( $doc:literal : $ty:ty { $( $(#[$meta:meta])* $name:ident = $value:expr ),* $(,)? } )*) => {
        $($(
            $(#[$meta])*
            #[doc = ""]
            #[doc = $doc]
            pub const $name: $ty = $value;
        )*)*

        /// The values of this module's constants, for the conformance test.
        #[doc(hidden)]
        pub const CONSTANTS: &[$crate::Constant] = &[$($(
            $crate::Constant {
                name: stringify!($name),
                prefix: $prefix,
                value: $name as u64,
                width: size_of::<$ty>(),
            },
        )*)*];
    };
}

/// Accessors for a union held in a field: `fn read, fn write: View` copy the view out of and into the
/// union's first bytes, leaving the rest of it as it was.
macro_rules! union_views {
    ($name:ident . $field:ident { $( $(#[$meta:meta])* $get:ident, $set:ident : $view:ty ),* $(,)? }) => {
        impl $name {
            $(
                $(#[$meta])*
                pub fn $get(&self) -> $view {
                    const {
                        let union_size = $crate::layout::field_size::<$name, _>(|s| &s.$field);
                        assert!(size_of::<$view>() <= union_size, "the view is larger than its union");
                    }
                    let mut view: $view = zerocopy::FromZeros::new_zeroed();
                    let bytes = zerocopy::IntoBytes::as_bytes(&self.$field);
                    zerocopy::IntoBytes::as_mut_bytes(&mut view).copy_from_slice(&bytes[..size_of::<$view>()]);
                    view
                }

                $(#[$meta])*
                pub fn $set(&mut self, view: $view) {
                    let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut self.$field);
                    bytes[..size_of::<$view>()].copy_from_slice(zerocopy::IntoBytes::as_bytes(&view));
                }
            )*
        }
    };
}
