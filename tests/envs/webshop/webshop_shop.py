"""A small shop of made-up articles, in the official format."""

from __future__ import annotations

from typing import Any

from aem_gym.envs.webshop.catalogue import MemoryCatalogue, Product, parse_product
from aem_gym.envs.webshop.goals import ShopGoal


def row(asin: str = "B000000001", **changes: Any) -> dict[str, Any]:
    """An official row."""
    return {
        "asin": asin,
        "name": f"Cotton shirt {asin[-2:]}",
        "full_description": "A shirt for every day.",
        "small_description": ["Machine wash", "Soft"],
        "pricing": "$19.99",
        "customization_options": {
            "Color": [{"value": "Navy Blue"}, {"value": "Red/White"}],
            "Size": [{"value": "small"}, {"value": "large"}],
        },
        "category": "fashion",
        "product_category": "Clothing \u203a Men \u203a Shirts",
        "query": "Shirts ",
    } | changes


def shop(count: int = 25) -> MemoryCatalogue:
    """A catalogue of shirts and one lamp."""
    products = [
        parse_product(row(f"B0000000{i:02d}"), {"attributes": ["machine wash"]})
        for i in range(count)
    ]
    products.append(parse_product(lamp()))
    return MemoryCatalogue(products, {product.asin: product.prices[0] for product in products})


def lamp() -> dict[str, Any]:
    return row(
        "B0000LAMP1",
        name="Desk lamp, 5.5 inch",
        full_description="Gives light.",
        customization_options=None,
        query="lamps",
        product_category="Home \u203a Light",
        category="home",
    )


def goal(product: Product) -> ShopGoal:
    """Wants a product in its first options."""
    return ShopGoal(
        asin=product.asin,
        title=product.title,
        text="i want a machine wash shirt, navy blue, small, and price lower than 30.00 dollars",
        attributes=("machine wash",),
        options=("navy blue", "small"),
        price_upper=30.0,
        category=product.category,
        product_category=product.product_category,
        query=product.query,
    )
