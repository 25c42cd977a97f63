"""Values of options, and the names of makers, all of them invented.

No value has a colour word inside another word (`tan` in `standard`): the official reward would take
it for that colour, and a wish for it could not be met.
"""

from __future__ import annotations

from aem_gym.envs.webshop.generated.kinds import Choice, words

BRANDS = words(
    "Velmora, Tarnwick, Oskane, Brelloway, Fennmark, Quillhart, Nordavel, Juniveer, Kestwyn, "
    "Maristow, Zephandel, Orrinvale, Thistlecombe, Wrenfold, Calderby, Sunvarro, Ellisward, "
    "Mossbury, Ravenlo, Tolmari, Bexandre, Yarrowick, Hallandor, Pembrisa, Dovetarn, Lumarest, "
    "Caskmoor, Finchley & Rowe, Harrowgale, Opalune, Stellawyn, Umberlo, Vantrell, Wexmoor, "
    "Arbelline, Corvanta, Drayvale, Emberlyn, Foxhollo, Glenmira, Isoltane, Jaspermoor, Kirrabel, "
    "Larkendale, Mirovane, Nellowby, Osprevo, Pellandra, Quenbury, Rillstone & Daughters, "
    "Sablewick, Trevannon, Ulmarin, Virelle, Willowmarch, Xandrell, Ysolde Home, Zinnavo"
)

_WEAR = (
    "black, white, navy blue, heather grey, red, wine red, army green, khaki, dark grey, "
    "royal blue, burgundy, olive green, light blue, pink, dusty rose, mustard yellow, brown, "
    "camel, teal, lavender, coral, charcoal, purple, beige, sky blue, black/white, navy/white, "
    "heather grey/white, black/red, z1-black, z2-navy, z3-wine, a1-pink, a2-blue, a3-green, "
    "leopard, camo, floral yellow, striped blue"
)
_SHOES = (
    "black, white, brown, dark brown, navy, grey, black/white, white/pink, grey/orange, "
    "black/gum sole, light grey, cognac, nude, red, wine red, olive, khaki, blue, silver, gold, "
    "rose gold, purple, turquoise, multicolor, leopard, black leather, brown suede"
)
_HOME = (
    "white, black, grey, light grey, dark grey, beige, ivory, navy blue, teal, sage green, "
    "dusty pink, burgundy, mustard yellow, natural, walnut, dark brown, taupe, cream white, "
    "light blue, forest green, charcoal, blue/white, black/gold, burnt orange, lavender, coral"
)
_WOOD = (
    "white, black, walnut, natural oak, dark brown, espresso, grey oak, honey pine, cherry brown, "
    "rustic brown, white/oak, black/walnut"
)
_METAL = (
    "black, white, silver, gold, rose gold, brushed nickel, matte black, antique bronze, copper, "
    "brass, black/gold, chrome"
)
_GADGET = (
    "black, white, silver, blue, red, pink, purple, mint green, rose gold, navy blue, yellow, "
    "midnight green, matte black, grey, lavender, black/red, orange, clear"
)
_LIPS = (
    "01 rosy nude, 02 coral crush, 03 berry kiss, 04 mauve dream, 05 classic red, 06 plum noir, "
    "07 pink sugar, 08 cocoa brown, 09 peach fizz, 10 wine hour, 11 bare beige, 12 cherry pop"
)
_HAIR = (
    "1b natural black, 2 dark brown, 4 chestnut brown, 27 honey blonde, 30 light auburn, "
    "613 bleach blonde, burgundy, jet black, platinum blonde, ginger orange, silver grey, "
    "4/27 brown to blonde, 1b/99j black to wine"
)

COLOR = Choice("Color", words(_WEAR), 2, 7)
SHOE_COLOR = Choice("Color", words(_SHOES), 2, 6)
HOME_COLOR = Choice("Color", words(_HOME), 2, 6)
WOOD_COLOR = Choice("Color", words(_WOOD), 2, 4)
METAL_COLOR = Choice("Color", words(_METAL), 2, 4)
GADGET_COLOR = Choice("Color", words(_GADGET), 2, 5)
LIP_COLOR = Choice("Color", words(_LIPS), 3, 8)
HAIR_COLOR = Choice("Color", words(_HAIR), 3, 7)
PATTERN = Choice(
    "Pattern Name",
    words("solid, striped, floral, plaid, geometric, paisley, polka dot, gingham, boho, damask"),
    2,
    4,
)


def sized(name: str, values: str, least: int, most: int) -> Choice:
    """A group of which neighbouring values are offered."""
    return Choice(name, words(values), least, most, sized=True)


def some(name: str, values: str, least: int, most: int) -> Choice:
    """A group of which any values are offered."""
    return Choice(name, words(values), least, most)


SIZE = sized("Size", "x-small, small, medium, large, x-large, xx-large, 3x-large, 4x-large", 3, 6)
PLUS_SIZE = sized("Size", "small, medium, large, x-large, xx-large, 3x-large plus, 4x-large", 3, 5)
MEN_SHOE = sized("Size", "7, 7.5, 8, 8.5, 9, 9.5, 10, 10.5, 11, 11.5, 12, 13, 14", 4, 8)
WOMEN_SHOE = sized("Size", "5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 9.5, 10, 11", 4, 8)
DUAL_SHOE = sized(
    "Size",
    "6.5 women/5 men, 7.5 women/6 men, 8.5 women/7 men, 9.5 women/8 men, 10.5 women/9 men, "
    "11.5 women/10 men, 12.5 women/11 men",
    3,
    6,
)
JEANS_SIZE = sized(
    "Size",
    "28w x 30l, 30w x 30l, 30w x 32l, 32w x 30l, 32w x 32l, 34w x 30l, 34w x 32l, 36w x 32l, "
    "36w x 34l, 38w x 32l, 40w x 32l, 42w x 30l",
    4,
    8,
)
SOCK_SIZE = sized("Size", "small, medium, large, x-large, one size", 2, 3)
CURTAIN_SIZE = sized(
    "Size",
    "42 x 45 inch, 42 x 63 inch, 52 x 63 inch, 52 x 72 inch, 52 x 84 inch, 52 x 95 inch, "
    "52 x 108 inch, 70 x 84 inch",
    2,
    5,
)
RUG_SIZE = sized(
    "Size",
    "2 x 3 feet, 2 x 8 feet runner, 3 x 5 feet, 4 x 6 feet, 5 x 7 feet, 6 x 9 feet, 8 x 10 feet, "
    "9 x 12 feet",
    2,
    5,
)
PILLOW_SIZE = sized(
    "Size",
    "12 x 20 inch (pack of 2), 16 x 16 inch (pack of 2), 18 x 18 inch (pack of 2), "
    "18 x 18 inch (pack of 4), 20 x 20 inch (pack of 2), 22 x 22 inch (pack of 1)",
    2,
    4,
)
PICTURE_SIZE = sized(
    "Size",
    '8"x10", 12"x16", 16"x20", 16"x24", 20"x30", 24"x36", 30"x40", 32"x48"',
    2,
    5,
)
BLANKET_SIZE = sized(
    "Size", "throw (50 x 60 in), twin (60 x 80 in), queen (90 x 90 in), king (108 x 90 in)", 2, 4
)
BED_SIZE = sized("Size", "twin, twin xl, full, queen, king, california king", 2, 4)
PACK = sized(
    "Item Package Quantity", "pack of 1, pack of 2, pack of 3, pack of 4, pack of 6, 12 count", 2, 4
)
OUNCES = sized(
    "Size",
    "2 fl oz, 4 fl oz, 8 fl oz, 12 fl oz, 16 fl oz (pack of 1), 16 fl oz (pack of 2), 33.8 fl oz",
    2,
    4,
)
FOOD_SIZE = sized(
    "Size",
    "4 ounce (pack of 1), 8 ounce (pack of 1), 12 ounce (pack of 1), 12 ounce (pack of 3), "
    "1 pound (pack of 1), 1 pound (pack of 6), 2 pound (pack of 1), 5 pound (bulk)",
    2,
    4,
)
CABLE_SIZE = sized("Size", "1 foot, 3 feet, 6 feet, 10 feet, 15 feet, 25 feet, 50 feet", 2, 5)
STORAGE = sized(
    "Capacity",
    "8gb ram | 256gb ssd, 16gb ram | 512gb ssd, 32gb ram | 1tb ssd, 64gb ram | 2tb ssd",
    2,
    4,
)
