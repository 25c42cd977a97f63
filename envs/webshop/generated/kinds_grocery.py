"""Food and drink."""

from __future__ import annotations

from aem_gym.envs.webshop.generated import values
from aem_gym.envs.webshop.generated.kinds import kind

_FOOD = "Grocery & Gourmet Food"
_COUNT = values.sized(
    "Size",
    "6 count (pack of 1), 12 count (pack of 1), 12 count (pack of 2), 24 count (pack of 1), "
    "24 count (pack of 4)",
    2,
    4,
)
_JAR = values.sized(
    "Size",
    "16 ounce (pack of 1), 16 ounce (pack of 2), 24 ounce (pack of 1), 24 ounce (pack of 6), "
    "40 ounce (family jar)",
    2,
    4,
)

GROCERY = (
    kind(
        "grocery",
        f"{_FOOD}/Beverages/Coffee, Tea & Cocoa/Coffee/Ground Coffee",
        values.some(
            "Flavor Name",
            "house blend, french roast, hazelnut, vanilla cream, breakfast blend, dark sumatra, "
            "colombian, decaf espresso, pumpkin spice, caramel swirl",
            2,
            5,
        ),
        values.FOOD_SIZE,
        queries="ground coffee",
        nouns="Ground Coffee, Whole Bean Coffee, Medium Roast Coffee, Dark Roast Coffee",
        wanted="coffee, roasted coffee",
        measure="bag of",
        traits="usda organic, non gmo, kosher certified, gluten free, caffeine free",
        parts="natural flavors, resealable bag",
        uses="coffee bar, home office",
        scraps="Single Origin, Low Acid, Small Batch, Fair Trade, Bold and Smooth",
        about="Roasted on Mondays and packed the same day. Use two spoons to a cup. The valve "
        "lets the gas out and keeps the air off",
        prices=(8, 48),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Beverages/Coffee, Tea & Cocoa/Tea/Herbal",
        values.some(
            "Flavor Name",
            "chamomile, lemon ginger, hibiscus berry, rooibos vanilla, cinnamon apple, "
            "earl grey, jasmine green, turmeric honey",
            2,
            5,
        ),
        values.sized("Size", "16 bags, 20 bags, 40 bags, 80 bags, 100 bags (bulk)", 2, 4),
        queries="herbal tea",
        nouns="Herbal Tea, Loose Leaf Tea, Tea Bags, Wellness Tea",
        wanted="herbal tea, tea",
        measure="box of",
        traits="caffeine free, usda organic, non gmo, sugar free, individually wrapped",
        parts="natural flavors, real fruit",
        uses="lounge sleep, coffee bar, baby shower",
        scraps="Hot or Iced, Plastic Free Bags, Evening Blend, Gift Tin",
        about="Steep it for five minutes with a lid on. The leaves are cut large so that they do "
        "not turn bitter. Good over ice with a slice of peach",
        prices=(5, 30),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Bars/Nutrition Bars",
        values.some(
            "Flavor Name",
            "peanut crunch, chocolate chip, cookie dough, vanilla almond, salted caramel, "
            "lemon pie, maple pecan, coconut fudge",
            2,
            5,
        ),
        _COUNT,
        queries="protein bars, nutrition bars",
        nouns="Protein Bars, Nutrition Bars, Granola Bars, Energy Bars",
        wanted="snack bars, nutrition bars",
        measure="box of",
        traits="gluten free, low carb, plant based, keto friendly, soy free, non gmo",
        parts="high protein, dietary fiber, natural flavors",
        uses="gym workout, school lunch, winter hiking",
        scraps="20g Protein, Chewy, No Sugar Alcohols, Variety Box",
        about="Soft in the middle and crisp outside. Made from things that you could name. Put "
        "one in your bag and forget about lunch",
        prices=(10, 45),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Cookies",
        values.some(
            "Flavor Name",
            "double chocolate, oat raisin, ginger snap, brown butter, lemon cream, snickerdoodle, "
            "coconut, shortbread",
            2,
            4,
        ),
        values.FOOD_SIZE,
        queries="cookies",
        nouns="Cookies, Crunchy Cookies, Soft Baked Cookies, Cookie Thins",
        wanted="cookies",
        measure="pack of",
        traits="gluten free, dairy free, nut free, non gmo, individually wrapped, low calorie",
        parts="natural flavors, real fruit, sea salt",
        uses="school lunch, birthday party, baby shower",
        scraps="Homestyle, With Coconut Flour, Tea Time, Bakery Fresh",
        about="Baked in small trays until the edges turn. Dunk them. They keep for six months if "
        "you let them",
        prices=(5, 34),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Nuts & Seeds/Mixed Nuts",
        values.some(
            "Flavor Name",
            "salted, honey roasted, smoked paprika, raw unsalted, chili and lime, "
            "garlic parsley, sweet maple",
            2,
            4,
        ),
        values.FOOD_SIZE,
        queries="mixed nuts",
        nouns="Mixed Nuts, Trail Mix, Roasted Almonds, Snack Nuts",
        wanted="mixed nuts, snack nuts",
        measure="bag of",
        traits="gluten free, kosher certified, non gmo, keto friendly, low sodium",
        parts="sea salt, high protein, resealable bag, dietary fiber",
        uses="winter hiking, school lunch, home office",
        scraps="Dry Roasted, No Peanuts, Whole Kernels, Party Bowl",
        about="Roasted slowly in the shell of the oven and salted while warm. Sorted by hand. A "
        "fistful is a meal on the trail",
        prices=(7, 52),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Popcorn",
        values.some(
            "Flavor Name",
            "movie butter, sea salt, kettle corn, aged cheddar, dill pickle, caramel, jalapeno",
            2,
            4,
        ),
        _COUNT,
        queries="popcorn",
        nouns="Popcorn, Popped Popcorn Bags, Microwave Popcorn, Gourmet Popcorn",
        wanted="popcorn, popcorn snacks",
        measure="box of",
        traits="gluten free, low calorie, non gmo, ready eat, nut free",
        parts="dietary fiber, natural flavors",
        uses="birthday party, school lunch, home theater",
        scraps="Hulless Kernels, Movie Night, Air Popped, Snack Size",
        about="Big flakes without the bits that stick between teeth. Popped in a kettle with a "
        "drop of oil. It goes faster than you think",
        prices=(8, 36),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Candy & Chocolate/Chocolate Bars",
        values.some(
            "Flavor Name",
            "70% cacao, milk chocolate, almond, raspberry crisp, cherry chili, sea salt toffee, "
            "orange peel, coffee crunch",
            2,
            5,
        ),
        values.PACK,
        queries="chocolate",
        nouns="Dark Chocolate Bars, Chocolate Truffles, Chocolate Squares, Chocolate Bark",
        wanted="chocolate, gourmet chocolate",
        measure="box of",
        traits="sugar free, dairy free, soy free, usda organic, individually wrapped",
        parts="gift basket, real fruit, sea salt",
        uses="birthday party, baby shower, evening party",
        scraps="Bean to Bar, Stone Ground, Valentine Treat, Fair Trade",
        about="Ground for three days until it is silk. Let a square melt on the tongue. We ship "
        "it with an ice pack from May on",
        prices=(6, 48),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Pantry Staples/Sauces, Gravies & Marinades/Pasta Sauces",
        values.some(
            "Flavor Name",
            "tomato basil, roasted garlic, spicy arrabbiata, four cheese, vodka, mushroom",
            2,
            4,
        ),
        _JAR,
        queries="pasta sauce",
        nouns="Pasta Sauce, Marinara Sauce, Tomato Sauce, Pizza Sauce",
        wanted="pasta sauce, tomato pasta sauce",
        measure="jar of",
        traits="low sodium, sugar free, gluten free, dairy free, usda organic, fat free",
        parts="sea salt, natural flavors",
        uses="dining room, birthday party",
        scraps="Slow Simmered, Vine Ripened, Glass Jar, Family PromptTemplate",
        about="Simmered for six hours in copper. Warm it gently and save a ladle of pasta water. "
        "Half a jar feeds four",
        prices=(5, 42),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Herbs, Spices & Seasonings/Mixed Spices & Seasonings",
        values.some(
            "Flavor Name",
            "taco night, lemon pepper, smoky barbecue, cajun, ranch, everything bagel, za'atar",
            2,
            4,
        ),
        values.sized("Size", "2.5 ounce, 5 ounce, 8 ounce, 16 ounce, 5 pound", 2, 4),
        queries="seasoning mixes",
        nouns="Seasoning Blend, Dry Rub, Spice Mix, Seasoning Salt",
        wanted="seasoning, seasoning mix",
        measure="jar of",
        traits="low sodium, gluten free, keto friendly, kosher certified, non gmo",
        parts="sea salt, natural flavors",
        uses="outdoor use, dining room",
        scraps="No MSG, Grill Master, Shaker Lid, Chef Grade",
        about="Toasted before it is ground. Rub it on an hour ahead. Good on eggs as well as on "
        "ribs",
        prices=(4, 30),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Jerky & Dried Meats",
        values.some(
            "Flavor Name", "original, teriyaki, cracked pepper, hot honey, korean, hickory", 2, 4
        ),
        values.sized("Size", "1 ounce (pack of 12), 3 ounce (pack of 1), 10 ounce, 2 pound", 2, 3),
        queries="beef jerky",
        nouns="Beef Jerky, Turkey Jerky, Meat Sticks, Smoked Jerky",
        wanted="jerky, meat snacks",
        measure="bag of",
        traits="gluten free, low carb, sugar free, keto friendly, ready eat",
        parts="high protein, resealable bag, sea salt",
        uses="winter hiking, gym workout, school lunch",
        scraps="Grass Fed, Tender Cut, No Nitrites, Road Trip",
        about="Sliced with the grain and smoked over oak. Tender enough to bite off. Keep a bag "
        "in the glove box",
        prices=(7, 46),
    ),
    kind(
        "grocery",
        f"{_FOOD}/Snack Foods/Fruit Snacks",
        values.some(
            "Flavor Name",
            "strawberry, mango, apple, mixed berry, sour cherry, pineapple, watermelon",
            2,
            5,
        ),
        _COUNT,
        queries="fruit snacks",
        nouns="Fruit Snacks, Dried Fruit Slices, Fruit Leather, Freeze Dried Fruit",
        wanted="fruit snacks, dried fruit snacks",
        measure="box of",
        traits="gluten free, plant based, non gmo, nut free, fat free",
        parts="real fruit, dietary fiber, natural flavors",
        uses="school lunch, birthday party, kids room",
        scraps="No Sugar Added, Chewy Bites, Lunchbox Pouches, Variety Pack",
        about="Picked ripe and dried within the day. Chewy without sticking. Children do not "
        "notice that it is good for them",
        prices=(6, 38),
    ),
)
