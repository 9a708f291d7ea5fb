//! Where blobs should be, in dollars: prices, costs, and a plan of moves, which are pure; and who carries a plan out.

pub mod apply;
mod cost;
mod plan;
mod prices;

pub use cost::{MonthlyCost, Object, Place, gigabytes, of_move, per_month};
pub use plan::{Blob, Bounds, Image, Move, Plan, Rules, plan};
pub use prices::{ClassName, ClassPrices, Prices, PricesError, RestorePrices};
